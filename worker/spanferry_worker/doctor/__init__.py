"""`spanferry doctor`: says in plain words what is wrong between Kafka, the workers and MLflow."""
