"""What MLflow knows about a trace that starts: experiment, run, model, and the context's tags."""
# pyright: reportPrivateUsage=false

import os
import sys
from threading import get_ident
from typing import Any, Final

from mlflow.environment_variables import (
    _MLFLOW_ACTIVE_MODEL_ID,
    MLFLOW_ACTIVE_MODEL_ID,
    MLFLOW_TRACE_EXTRACT_ATTACHMENTS,
    MLFLOW_TRACING_DESTINATION,
)
from mlflow.tracing import provider
from mlflow.tracing.context import _USER_TRACE_CONTEXT
from mlflow.tracking import fluent

from spanferry import values
from spanferry.texts import texts_of
from spanferry_schemas import TracePart, mlflow_keys

__all__ = ["dress", "nothing_is_set", "prediction_context"]

_environment: Any = getattr(os.environ, "_data", None)
_VARIABLES: Final = [
    getattr(os.environ, "encodekey", str)(variable.name)
    for variable in (
        MLFLOW_TRACE_EXTRACT_ATTACHMENTS,
        MLFLOW_TRACING_DESTINATION,
        MLFLOW_ACTIVE_MODEL_ID,
        _MLFLOW_ACTIVE_MODEL_ID,
    )
]

_VALUES: Final = "_ThreadLocalVariable__global_thread_values"
_runs: Any = getattr(fluent._active_run_stack, _VALUES, None)
"""The runs of every thread, by its ident."""
_models: Any = getattr(fluent._ACTIVE_MODEL_CONTEXT, _VALUES, None)
"""Each thread's active model, by its ident; a thread has none before somebody has asked."""

_MAY_LOOK: Final = _environment is not None and _runs is not None and _models is not None


def dress(facts: TracePart, *, experiment_given: bool) -> None:
    """Give a new trace what MLflow's own span processor gives it. Asks no server.

    `experiment_given`: it was chosen for this very trace.
    """
    context = _USER_TRACE_CONTEXT.get()
    if context is None and prediction_context() is None and nothing_is_set():
        chosen = fluent._active_experiment_id
        if chosen is not None and not experiment_given:
            facts.experiment_id = values.text(chosen)
        return
    _dress(facts, context, experiment_given=experiment_given)


def nothing_is_set() -> bool:
    """Whether no destination, run, model or variable holds for a trace that starts here.

    What MLflow's functions would find out, in twenty calls.
    """
    destinations = provider._MLFLOW_TRACE_USER_DESTINATION
    if (
        not _MAY_LOOK
        or destinations._global_value is not None
        or destinations._context_local_value.get() is not None
        or not _environment.keys().isdisjoint(_VARIABLES)
        or get_ident() not in _models
        or (_runs and any(_runs.copy().values()))
    ):
        return False
    for model in list(_models.values()):  # noqa: SIM110  a generator costs more than the loop
        if model._model_id is not None:
            return False
    return True


def _dress(facts: TracePart, context: Any, *, experiment_given: bool) -> None:
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
