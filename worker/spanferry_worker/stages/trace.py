"""The trace between assembly and the write: what the stages and the sinks speak of."""

from enum import StrEnum
from typing import Final, NamedTuple

from msgspec import Struct

from spanferry_schemas import Assessment, Attachment, Span, TracePart, mlflow_keys

__all__ = ["PROCESS_METADATA", "AssembledTrace", "FinishReason", "Position"]

PROCESS_METADATA: Final = frozenset(
    {
        mlflow_keys.METADATA_SOURCE_NAME,
        mlflow_keys.METADATA_SOURCE_TYPE,
        mlflow_keys.METADATA_GIT_COMMIT,
        mlflow_keys.METADATA_GIT_BRANCH,
        mlflow_keys.METADATA_GIT_REPO_URL,
        mlflow_keys.METADATA_PROCESS_USER,
    }
)
"""Metadata that each process attaches by itself: those of the root's process stand."""


class FinishReason(StrEnum):
    """Why a trace left assembly; the metric's label, the log's field and the mark on the trace."""

    COMPLETE = "complete"
    """The end marker and every span it counts are there."""
    IDLE = "idle"
    """Nothing came for `idle_s`."""
    AGE = "age"
    """Open for longer than `age_s`: written as it stands, later spans are added."""
    MEMORY = "memory"
    """Written early because the worker holds as many bytes as it may."""
    DRAIN = "drain"
    """Written early because the worker stops and was told not to leave it to the next owner."""
    LATE = "late"
    """Spans or feedback that came after their trace was written: to be merged into it."""


class Position(NamedTuple):
    """One Kafka record."""

    topic: str
    partition: int
    offset: int


class AssembledTrace(Struct, frozen=True):
    """A trace as the sinks write it. `spans` are unique by span id, in order of arrival.

    `spans` may be empty: then `assessments`, `attachments`, tags or metadata for a trace that is (or
    is to be) in MLflow. `attachments` are unique by their id. `trace_id` is None only for assessments
    that name a client request id instead. `complete` is False where spans are known to be missing or
    still to come. `positions` are the records it was made of: they may be committed once it is
    durable. `size` is the sum of their values in bytes before compression.
    """

    trace_id: bytes | None
    trace: TracePart
    spans: list[Span]
    assessments: list[Assessment]
    reason: FinishReason
    complete: bool
    size: int
    positions: list[Position]
    attachments: list[Attachment] = []
    held_bytes: int = 0
    """What it takes in memory, about."""

    @property
    def memory_bytes(self) -> int:
        """`held_bytes`, or `size` where that is not known."""
        return self.held_bytes or self.size
