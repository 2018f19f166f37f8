"""What MLflow knows about a trace that starts: experiment, run, model, and the context's tags."""
# pyright: reportPrivateUsage=false

import sys
from typing import Any

from mlflow.environment_variables import MLFLOW_TRACE_EXTRACT_ATTACHMENTS
from mlflow.tracing import provider
from mlflow.tracing.context import _USER_TRACE_CONTEXT
from mlflow.tracking import fluent

from spanferry import values
from spanferry.texts import texts_of
from spanferry_schemas import TracePart, mlflow_keys

__all__ = ["dress", "prediction_context"]


def dress(facts: TracePart, *, experiment_given: bool) -> None:
    """Give a new trace what MLflow's own span processor gives it. Asks no server.

    `experiment_given`: it was chosen for this very trace.
    """
    run = fluent._get_latest_active_run()
    if not experiment_given:
        _choose_experiment(facts, run)
    facts.files_inline = not MLFLOW_TRACE_EXTRACT_ATTACHMENTS.get()
    metadata, tags = facts.metadata, facts.tags
    if run is not None:
        metadata[mlflow_keys.METADATA_SOURCE_RUN] = run.info.run_id
    prediction = prediction_context()
    model_id = fluent._get_active_model_id_global()
    if not model_id and prediction is not None:
        model_id = prediction.model_id
    if model_id:
        metadata[mlflow_keys.METADATA_MODEL_ID] = model_id
        facts.active_model, facts.model_params = None, {}
    if prediction is not None and prediction.dependencies_schemas:
        tags.update(texts_of(prediction.dependencies_schemas))
    context = _USER_TRACE_CONTEXT.get()
    if context is not None:
        name = tags.get(mlflow_keys.TAG_TRACE_NAME)
        metadata.update(texts_of(context.metadata or {}))
        tags.update(texts_of(context.tags or {}))
        if name is not None:
            tags[mlflow_keys.TAG_TRACE_NAME] = name


def prediction_context() -> Any | None:
    """What MLflow's pyfunc is doing here; None in an app of one's own."""
    module = sys.modules.get("mlflow.pyfunc.context")
    return None if module is None else module._PREDICTION_REQUEST_CTX.get()


def _choose_experiment(facts: TracePart, run: Any) -> None:
    """As MLflow: a destination, an active run, set_experiment; then what enable() was given."""
    destination = provider._MLFLOW_TRACE_USER_DESTINATION.get()
    chosen = getattr(destination, "experiment_id", None)
    if chosen is None and run is not None:
        chosen = run.info.experiment_id
    if chosen is None:
        chosen = fluent._active_experiment_id
    if chosen is not None:
        facts.experiment_id = values.text(chosen)
