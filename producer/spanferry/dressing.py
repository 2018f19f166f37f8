"""What a new span is given along with its name and type."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from spanferry import values
from spanferry.entities import LinkLike, SpanLogLevel
from spanferry.log import say_once
from spanferry.spans import Span
from spanferry.stopping import let_through
from spanferry_schemas import mlflow_keys

__all__ = ["Dressing", "TraceDestination", "destination_of", "dress", "set_run"]

Dressing: TypeAlias = tuple[
    Mapping[str, Any] | None, str | None, SpanLogLevel | str | None, Sequence[LinkLike] | None
]
"""Attributes, description, log level and links of a new span."""


class TraceDestination(Protocol):
    """Where a trace goes: MLflow's MlflowExperimentLocation, or anything with an experiment's id."""

    @property
    def experiment_id(self) -> str | None: ...


def destination_of(destination: TraceDestination) -> str | None:
    """The experiment's id in a destination; None where it has none."""
    try:
        return destination.experiment_id
    except BaseException as error:  # noqa: BLE001  whatever a user's object does
        let_through(error)
        say_once("destination-id", "a trace destination has no id: %s", values.text(error))
        return None


def dress(
    span: Span,
    attributes: Mapping[str, Any] | None,
    description: str | None,
    log_level: SpanLogLevel | str | None,
    links: Sequence[LinkLike] | None,
) -> None:
    """Give a new span what its starter was given for it."""
    try:
        if attributes:
            span.set_attributes(attributes)
        if description is not None:
            span.set_description(description)
        if log_level is not None:
            span.set_log_level(log_level)
        for link in links or ():
            span.add_link(link)
    except BaseException as error:  # noqa: BLE001  whatever a user's object does
        let_through(error)
        say_once("dress", "a span could not be given it all: %s", values.text(error))


def set_run(span: Span, run_id: str) -> None:
    """Make a new trace belong to an MLflow run."""
    if span.parent_id is not None:
        say_once("run-id", "run_id is for root spans only and is ignored")
        return
    span.trace.facts.metadata[mlflow_keys.METADATA_SOURCE_RUN] = values.text(run_id)
