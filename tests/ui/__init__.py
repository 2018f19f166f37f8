"""MLflow's UI in a real browser, on the same traces by each way into a store."""
