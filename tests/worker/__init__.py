"""The worker: its stages, its runtime, its Kafka, its command."""
