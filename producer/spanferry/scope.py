"""What holds for every trace that starts within a block: MLflow's `mlflow.tracing.context`."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Final

from msgspec import Struct

from spanferry import values
from spanferry.process import PROCESS
from spanferry.texts import session_text, usable_texts
from spanferry_schemas import TracePart, mlflow_keys

__all__ = ["Scope", "context", "scope"]


class Scope(Struct, frozen=True):
    """The innermost block together with those around it. All text in it is encodable in UTF-8."""

    metadata: dict[str, str] = {}
    tags: dict[str, str] = {}
    enabled: bool | None = None

    def dress(self, facts: TracePart) -> None:
        """Give a new trace what the scope says. A trace's name stays its own, as in MLflow."""
        facts.tags = {**self.tags, **facts.tags}
        facts.metadata.update(self.metadata)
        if mlflow_keys.METADATA_MODEL_ID in self.metadata:
            facts.active_model, facts.model_params = None, {}


scope: Final[ContextVar[Scope | None]] = ContextVar("spanferry_scope", default=None)
"""The scope that is in force here; None outside of all blocks."""


@contextmanager
def context(
    metadata: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    enabled: bool | None = None,
    session_id: str | list[str] | None = None,
    user: str | None = None,
) -> Generator[None, None, None]:
    """Give metadata and tags to every trace that starts inside the block, without a span of its own.

    For traces that other code makes. Blocks nest, the inner one wins. With `enabled=False` nothing
    is recorded inside, spans under one that is already open included; None leaves that as it is
    around. A list as `session_id` names the session level by level, outermost first. A trace that is
    open already is not changed: see `update_current_trace`.
    """
    own = usable_texts(metadata, "the context's metadata are")
    if session_id is not None:
        own[mlflow_keys.METADATA_SESSION] = session_text(session_id)
    if user is not None:
        own[mlflow_keys.METADATA_USER] = values.text(user)
    around = scope.get() or Scope()
    inside = Scope(
        {**around.metadata, **own},
        {**around.tags, **usable_texts(tags, "the context's tags are")},
        around.enabled if enabled is None else enabled,
    )
    PROCESS.scopes = PROCESS.detours = True
    PROCESS.plain = None
    token = scope.set(inside)
    try:
        yield
    finally:
        with suppress(ValueError, RuntimeError):  # left in another context than it was entered in
            scope.reset(token)
