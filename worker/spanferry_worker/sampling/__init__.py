"""`spanferry sampling` and `spanferry undrop`: what policies do, on traces that Kafka still has."""
