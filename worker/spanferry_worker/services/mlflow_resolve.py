"""Names of experiments and models as MLflow's ids, created where they are missing, kept for a while."""

import json
import logging
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException

import spanferry_schemas as wire
from spanferry_worker.errors import FatalError, NoExperimentError, PoisonError
from spanferry_worker.services.mlflow_errors import (
    error_code,
    first_lines,
    is_forbidden,
    is_missing,
    mapped,
)
from spanferry_worker.services.mlflow_models import Models
from spanferry_worker.telemetry import LogEvent

__all__ = ["Resolver"]


_logger = logging.getLogger(__name__)

_PLACES: Final = frozenset({"experiment", "experiment-id"})
KEEP_S: Final = 30.0
"""How long an answer is believed: a deleted or restored experiment is noticed within this time."""
MISSING_S: Final = 2.0
"""How long it is believed that an experiment or a model is not there, or may not be made: what is mended
is found soon, and an app that names a wrong one does not have the store asked for every trace."""
ENTRIES_MAX: Final = 10_000
"""Names kept; above it all are forgotten and asked for again."""


class Resolver:
    """Looks up experiments and models in one store. Used by several threads at once."""

    def __init__(
        self,
        store: Any,
        *,
        default_experiment: str,
        tracking_uri: str,
        create_experiments: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without `create_experiments` those that are not there are refused."""
        self._store = store
        self._default_experiment = default_experiment
        self._creates = create_experiments
        self._clock = clock
        self._kept: dict[tuple[str, str, str], tuple[float, str | NoExperimentError]] = {}
        self._lock = threading.Lock()
        self._models = Models(store, tracking_uri)

    def check_default(self) -> None:
        """Raises FatalError where the default experiment is deleted, or is not there and may not be made.

        Does not create it.
        """
        with mapped(f"looking up experiment {self._default_experiment!r}"):
            experiment = self._store.get_experiment_by_name(self._default_experiment)
        if experiment is None:
            if not self._creates:
                name = self._default_experiment
                raise FatalError(
                    f"the worker's default experiment {name!r} is not there, and "
                    f"mlflow.create_experiments is off: {_create_it(name)}, or name another one "
                    "(mlflow.experiment)"
                )
            return
        try:
            _active(experiment)
        except PoisonError as error:
            raise FatalError(f"the worker's default {error}") from error

    def experiment_id(self, part: wire.TracePart) -> str:
        """The experiment of a trace: by id, else by name, else the worker's default.

        Raises NoExperimentError where it is deleted, was named by an id that does not exist, or may not
        be made: nothing is moved to another experiment silently, and the dead letter can be replayed.
        """
        if part.experiment_id:
            return self._kept_or("experiment-id", part.experiment_id, "", self._by_id)
        name = part.experiment or self._default_experiment
        return self._kept_or("experiment", name, "", self._by_name)

    def model_id(self, name: str, experiment_id: str, params: Mapping[str, str]) -> str | None:
        """The newest LoggedModel of that name in the experiment, made EXTERNAL where missing.

        It is given those of `params` that it lacks. None, and a log line, for a name that MLflow
        refuses, and where the worker may not make models: the trace matters more than its link.
        """
        model_id = self._kept_or("model", name, experiment_id, self._models.look_up)
        if model_id and params:
            given = json.dumps(params, sort_keys=True)
            self._kept_or("params", given, model_id, self._models.add_params)
        return model_id or None

    def known_experiments(self) -> list[str]:
        """The ids that were looked up lately."""
        kept = self._kept.copy()  # at once: other threads add to it
        places = [found for (kind, _, _), (_, found) in kept.items() if kind in _PLACES]
        return list({found for found in places if isinstance(found, str)})

    def forget(self) -> None:
        """Ask again for everything: an answer has proved wrong."""
        self._kept = {}

    def _kept_or(self, kind: str, name: str, scope: str, look_up: Callable[[str, str], str]) -> str:
        """What was found lately, else what `look_up` finds: an empty text is nothing."""
        key = (kind, name, scope)
        now = self._clock()
        if (kept := self._kept.get(key)) is not None and now < kept[0]:
            return _there(kept[1])
        with self._lock:  # so that one process creates a missing one only once
            if (kept := self._kept.get(key)) is not None and now < kept[0]:
                return _there(kept[1])
            found: str | NoExperimentError
            try:
                found = look_up(name, scope)
            except NoExperimentError as error:
                found = error
            if len(self._kept) >= ENTRIES_MAX:
                self._kept = {}
            keep_s = KEEP_S if found and isinstance(found, str) else MISSING_S
            self._kept[key] = (now + keep_s, found)
        return _there(found)

    def _by_id(self, experiment_id: str, _scope: str) -> str:
        with mapped(f"looking up experiment {experiment_id}"):
            try:
                experiment = self._store.get_experiment(experiment_id)
            except MlflowException as error:
                if is_missing(error) or error_code(error) == "INVALID_PARAMETER_VALUE":
                    raise NoExperimentError(
                        experiment_id,
                        f"there is no experiment with the id {experiment_id!r}: set the app's "
                        "experiment to one that exists and replay the dead letters",
                    ) from error
                raise
        return _active(experiment)

    def _by_name(self, name: str, _scope: str) -> str:
        with mapped(f"looking up experiment {name!r}"):
            experiment = self._store.get_experiment_by_name(name)
            if experiment is None:
                experiment = self._create_experiment(name)
        return _active(experiment)

    def _create_experiment(self, name: str) -> Experiment:
        if not self._creates:
            raise NoExperimentError(
                name,
                f"there is no experiment {name!r}, and mlflow.create_experiments is off: "
                f"{_create_it(name)} and replay the dead letters",
            )
        created: Experiment
        try:
            created = self._store.get_experiment(self._store.create_experiment(name))
            _logger.info("created experiment %r", name, extra=LogEvent.STORE_CREATED())
        except MlflowException as error:
            if is_forbidden(error):  # of one name only: what exists can be looked up and written to
                raise NoExperimentError(
                    name,
                    f"there is no experiment {name!r}, and the worker may not create it "
                    f"({first_lines(error)}): {_create_it(name)}, or let the worker, and replay the "
                    "dead letters",
                ) from error
            if error_code(error) != "RESOURCE_ALREADY_EXISTS":
                raise
            created = self._store.get_experiment_by_name(name)  # another worker was faster
        return created


def _there(found: str | NoExperimentError) -> str:
    if isinstance(found, NoExperimentError):
        raise NoExperimentError(found.experiment, str(found))
    return found


def _create_it(name: str) -> str:
    return f"create it with `mlflow experiments create --experiment-name {shlex.quote(name)}`"


def _active(experiment: Experiment) -> str:
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        raise NoExperimentError(
            str(experiment.experiment_id),
            f"experiment {experiment.name!r} is deleted: restore it with `mlflow experiments "
            f"restore --experiment-id {experiment.experiment_id}` and replay the dead letters",
        )
    return str(experiment.experiment_id)
