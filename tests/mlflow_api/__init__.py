"""What an app does with MLflow's own tracing API is stored through spanferry as MLflow stores it."""
