"""LoggedModels by name, made where they are missing, by one of several workers."""

import json
import logging
import tempfile
from pathlib import Path
from typing import Any, Final

from mlflow.entities import LoggedModelParameter, LoggedModelStatus, LoggedModelTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

from spanferry_worker.errors import PoisonError
from spanferry_worker.services.mlflow_errors import first_lines, is_forbidden, mapped
from spanferry_worker.services.mlflow_private import validate_model_name
from spanferry_worker.telemetry import LogEvent

__all__ = ["Models"]

_logger = logging.getLogger(__name__)

_MADE_AT_ONCE_MAX: Final = 100
"""Models of one name that are looked at where workers make it at the same time."""
_SAID_MAX: Final = 10_000
"""What is said once; above it nothing more is said."""


class Models:
    """Looks up models in one store. Used by several threads, one of them at a time.

    Nothing about a model is worth a trace: what MLflow refuses is said once, and the trace is stored
    without it. Errors that go by are raised, as TransientError.
    """

    def __init__(self, store: Any, tracking_uri: str) -> None:
        """`tracking_uri` is MLflow's, as its artifact stores want to know it."""
        self._store = store
        self._tracking_uri = tracking_uri
        self._said: set[str] = set()

    def look_up(self, name: str, experiment_id: str) -> str:
        """The id of the newest of that name in the experiment, made EXTERNAL where missing.

        Empty for a name that MLflow refuses, and where the worker may not look or make one.
        """
        try:
            validate_model_name(name)
            with mapped(f"looking up model {name!r}"):
                return self._looked_up(name, experiment_id)
        except (MlflowException, PoisonError) as error:
            self._say(f"model {name}", "traces are stored without their model: %s", error)
        return ""

    def add_params(self, params: str, model_id: str) -> str:
        """What create_external_model and log_model_params do. A parameter never changes its value.

        `params` is a JSON object of texts. Returns the model's id; an empty text where the worker may not
        add them.
        """
        said = "a model lacks parameters that the app has given: %s"
        try:
            with mapped(f"storing parameters of model {model_id}"):
                try:
                    self._add_missing(json.loads(params), model_id)
                except MlflowException as error:
                    if not is_forbidden(error):
                        raise
                    self._say("parameters", said, first_lines(error))
                    return ""
        except PoisonError as error:
            self._say(f"parameters of {model_id}", said, error)
        return model_id

    def _looked_up(self, name: str, experiment_id: str) -> str:
        try:
            return self._found(name, experiment_id) or self._create(name, experiment_id)
        except MlflowException as error:
            if not is_forbidden(error):
                raise
            self._say(
                "models",
                "traces are stored without their models, which the worker may not make: %s",
                first_lines(error),
            )
            return ""

    def _found(self, name: str, experiment_id: str) -> str:
        """The newest; one that a worker is making only where there is no other, then the oldest of them.

        So all workers take the same one, whichever they see first. Empty where there is none.
        """
        found = self._search(name, experiment_id, 1)
        if found and _is_in_the_making(found[0]):
            found = self._search(name, experiment_id, _MADE_AT_ONCE_MAX)
        made = [model for model in found if not _is_in_the_making(model)]
        chosen = made[0] if made else min(found, key=_age, default=None)
        return "" if chosen is None else str(chosen.model_id)

    def _search(self, name: str, experiment_id: str, count: int) -> list[Any]:
        """The newest first."""
        return list(
            self._store.search_logged_models(
                experiment_ids=[experiment_id], filter_string=f"name='{name}'", max_results=count
            )
        )

    def _create(self, name: str, experiment_id: str) -> str:
        """What mlflow.create_external_model does, without its global state.

        Where another worker makes the same at the same time one of the two is deleted, before anybody
        has taken it for the newest.
        """
        model = self._store.create_logged_model(
            experiment_id=experiment_id,
            name=name,
            tags=[LoggedModelTag(MLFLOW_MODEL_IS_EXTERNAL, "true")],
        )
        try:
            self._upload_model_file(model)
        except Exception as error:  # noqa: BLE001 - any artifact store, any error: only registering needs it
            _logger.warning(
                "model %r has no MLmodel file, so it cannot be registered (%s)",
                name,
                error,
                extra=LogEvent.WRITE_PARTLY(),
            )
        own_id = str(model.model_id)
        chosen_id = self._found(name, experiment_id) or own_id
        if chosen_id != own_id:
            self._delete(own_id)
            return chosen_id
        self._store.finalize_logged_model(own_id, LoggedModelStatus.READY)
        _logger.info(
            "created external model %r in experiment %s",
            name,
            experiment_id,
            extra=LogEvent.STORE_CREATED(),
        )
        return own_id

    def _delete(self, model_id: str) -> None:
        """One of our own that nothing refers to. Left where that fails: it is never the one that is taken."""
        try:
            self._store.delete_logged_model(model_id)
        except MlflowException as error:
            _logger.warning(
                "model %s, which another worker has made at the same time, is there twice (%s)",
                model_id,
                first_lines(error),
                extra=LogEvent.WRITE_PARTLY(),
            )

    def _add_missing(self, wanted: dict[str, str], model_id: str) -> None:
        known = self._store.get_logged_model(model_id).params or {}
        missing = [LoggedModelParameter(k, v) for k, v in wanted.items() if k not in known]
        if missing:
            self._store.log_logged_model_params(model_id, missing)

    def _upload_model_file(self, model: Any) -> None:
        from mlflow.models.model import MLMODEL_FILE_NAME  # noqa: PLC0415 - slow, and rare
        from mlflow.models.utils import get_external_mlflow_model_spec  # noqa: PLC0415
        from mlflow.store.artifact.artifact_repository_registry import (  # noqa: PLC0415
            get_artifact_repository,
        )

        repository = get_artifact_repository(
            model.artifact_location, tracking_uri=self._tracking_uri
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / MLMODEL_FILE_NAME
            get_external_mlflow_model_spec(model).save(str(path))
            repository.log_artifact(str(path))

    def _say(self, what: str, message: str, why: object) -> None:
        """Once of each."""
        if what not in self._said and len(self._said) < _SAID_MAX:
            self._said.add(what)
            _logger.warning(message, why, extra=LogEvent.WRITE_PARTLY())


def _is_in_the_making(model: Any) -> bool:
    """Whether it is one that a worker, or MLflow's SDK, has begun to make and not yet finished."""
    return model.status == LoggedModelStatus.PENDING and MLFLOW_MODEL_IS_EXTERNAL in model.tags


def _age(model: Any) -> tuple[int, str]:
    return model.creation_timestamp, model.model_id
