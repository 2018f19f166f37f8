"""What the writer needs of a way into MLflow: straight into its database, or through its server."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mlflow.entities import Span, TraceInfo
from mlflow.entities.assessment import Assessment

from spanferry_worker.services.mlflow_text import Limits

__all__ = ["Backend"]


class Backend(Protocol):
    """One open MLflow store. Blocking, thread-safe; raises TransientError and PoisonError only."""

    @property
    def limits(self) -> Limits: ...

    @property
    def store(self) -> Any:
        """MLflow's own tracking store, for experiments and models."""
        ...

    def infos(self, trace_ids: Sequence[str]) -> dict[str, TraceInfo]:
        """Those of the traces that are stored, with tags, metadata and assessments."""
        ...

    def spans(self, info: TraceInfo) -> list[Span]:
        """Every stored span of a stored trace, as MLflow has translated it."""
        ...

    def write_new(self, infos: Sequence[TraceInfo], spans: Mapping[str, Sequence[Span]]) -> None:
        """Store traces that are not there yet, each with its spans by trace id.

        After a return every field is as given; after an error any part of it may be stored.
        This is the seam for a faster way in.
        """
        ...

    def add_spans(self, experiment_id: str, spans: Sequence[Span]) -> None:
        """Add spans to a trace that is stored."""
        ...

    def put_info(self, info: TraceInfo) -> None:
        """Write the record of a stored trace over the one that is there."""
        ...

    def add_assessment(self, assessment: Assessment) -> None:
        """Add one assessment to a stored trace, and mark the one it overrides."""
        ...

    def owners(self, assessment_ids: Sequence[str]) -> dict[str, str] | None:
        """Trace ids by assessment id, of those stored; None where the store cannot say."""
        ...

    def newest_traces(
        self, client_request_id: str, experiment_ids: Sequence[str], around_ms: int
    ) -> list[TraceInfo]:
        """Traces of that client request id, newest first."""
        ...

    def close(self) -> None:
        """Release connections. Never raises."""
        ...
