"""What must be set before mlflow is imported into a worker, so that it stays quiet and passive."""

import importlib.util
import logging
import os
import sys

__all__ = ["prepare_environment"]

_DEFAULTS = {
    # The worker is a pipe: it reports nothing about itself to anybody.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # The runtime retries, with its own backoff; MLflow's seven retries would hold a thread for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    # ... and those of Databricks' SDK nine.
    "MLFLOW_ASYNC_TRACE_LOGGING_RETRY_TIMEOUT": "60",
    "MLFLOW_DATABRICKS_ENDPOINT_HTTP_RETRY_TIMEOUT": "60",
    # It would sleep for up to six hours in the middle of a write because a server asks for that.
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    # Costs come from the price list that MLflow was installed with: fetching a newer one would hold
    # up a write for up to a quarter of a minute for each provider. Set it to have them fetched.
    "MLFLOW_MODEL_CATALOG_URI": "",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
}

_QUIET_LOGGERS = {
    "alembic": logging.WARNING,
    "mlflow": logging.WARNING,
    # Logs every database error with its traceback; the sink maps and reports each of them itself.
    "mlflow.store.db.utils": logging.CRITICAL,
}


def prepare_environment() -> None:
    """Set what is unset. Called before every first import of mlflow; calling it again is harmless.

    MLflow starts a trace exporter only when its tracing API is used, and no part of the worker does.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name, level in _QUIET_LOGGERS.items():
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(level)
    _settle("litellm")


def _settle(module: str) -> None:
    """Let imports of what is not installed fail at once. MLflow tries one for every cost that it
    computes, and every try looks through the file system."""
    if module not in sys.modules and importlib.util.find_spec(module) is None:
        sys.modules[module] = None  # type: ignore[assignment]  # as the import system has it
