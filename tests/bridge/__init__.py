"""MLflow's API over spanferry, without Kafka: what would be sent."""
