"""`spanferry retention`: delete old traces from MLflow, a few at a time."""
