"""A dead letter: a record that could not be stored, and the headers that say why. Choosing some."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from spanferry_schemas import (
    Assessment,
    Fragment,
    RecordKind,
    Rejection,
    RejectReason,
    decode,
    read_meta,
)
from spanferry_schemas.limits import TRACE_ID_BYTES
from spanferry_worker.stages.consume import Record
from spanferry_worker.stages.decode import DeadReason

__all__ = [
    "ATTEMPTS",
    "HEADER_PREFIX",
    "REASONS",
    "Letter",
    "Selection",
    "header_text",
    "letter_headers",
    "read_letter",
]

HEADER_PREFIX: Final = "dlq."
"""Headers with this prefix are the dead letter's own; an app's are never called so."""
ATTEMPTS: Final = f"{HEADER_PREFIX}attempts"
"""The one of them that a replayed record carries: how often it has died before."""
REASONS: Final = tuple(sorted([*map(str, RejectReason), *map(str, DeadReason)]))
"""Every reason that this version gives."""

_Headers = Sequence[tuple[str, bytes | None]]


def letter_headers(
    headers: _Headers, about: Mapping[str, object]
) -> list[tuple[str, bytes | None]]:
    """The headers of a dead letter: the record's own, `about` under our prefix, and the attempts.

    What an earlier death has left on the record is replaced, so that each name comes once.
    """
    attempts = _number(_own(headers).get("attempts")) or 0
    said = {**about, "attempts": attempts + 1}
    return [
        *((name, value) for name, value in headers if not name.startswith(HEADER_PREFIX)),
        *((HEADER_PREFIX + name, str(text).encode()) for name, text in said.items()),
    ]


class Letter(Struct, frozen=True, kw_only=True):
    """A dead letter as it lies in its topic. None and "" where its headers do not say.

    `headers` are the original ones. Times are milliseconds since 1970.
    """

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    reason: str
    message: str
    failed_at_ms: int
    """When the worker gave it up; when the letter was written where that is not said."""
    origin_topic: str = ""
    origin_partition: int | None = None
    origin_offset: int | None = None
    origin_timestamp_ms: int | None = None
    group: str = ""
    version: str = ""
    attempts: int = 1
    """How often it has died, this time included."""

    @property
    def size(self) -> int:
        """Bytes of the value."""
        return len(self.value) if self.value else 0

    @property
    def trace_id(self) -> bytes | None:
        """The trace it belongs to: its key, which needs no look into the value.

        The key of feedback on a client request id is a hash of that; it belongs to no known trace.
        """
        key = self.key
        if key is None or len(key) != TRACE_ID_BYTES:
            return None
        meta = read_meta(self.headers)
        if meta is not None and meta.kind is RecordKind.ASSESSMENT:
            event = decode(self.value)
            return event.trace_id if isinstance(event, Assessment) else None
        return key


def read_letter(record: Record) -> Letter:
    """A record of the dead letters' topic. Never fails: whoever wrote it may have left things out."""
    own = _own(record.headers)
    failed_at_ms = _number(own.get("failed_at_ms"))
    return Letter(
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp,
        key=record.key,
        value=record.value,
        headers=[each for each in record.headers if not each[0].startswith(HEADER_PREFIX)],
        reason=own.get("reason", "unknown"),
        message=own.get("message", ""),
        failed_at_ms=record.timestamp if failed_at_ms is None else failed_at_ms,
        origin_topic=own.get("topic", ""),
        origin_partition=_number(own.get("partition")),
        origin_offset=_number(own.get("offset")),
        origin_timestamp_ms=_number(own.get("timestamp_ms")),
        group=own.get("group", ""),
        version=own.get("version", ""),
        attempts=_number(own.get("attempts")) or 1,
    )


class Selection(Struct, frozen=True, kw_only=True):
    """Which letters; what is not given leaves nobody out."""

    reasons: frozenset[str] = frozenset()
    topic: str | None = None
    """Where they came from, as `partition`."""
    partition: int | None = None
    trace_id: bytes | None = None
    experiment: str | None = None
    """A name or an id: as the record says it, or the reason `no_experiment` in its message."""

    def takes(self, letter: Letter) -> bool:
        """Whether the letter is one of them."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and self.topic in {None, letter.origin_topic}
            and self.partition in {None, letter.origin_partition}
            and self.trace_id in {None, letter.trace_id}
            and (self.experiment is None or _names(letter, self.experiment))
        )


def _names(letter: Letter, experiment: str) -> bool:
    """Whether a letter names an experiment.

    The message goes first: it is on every record of a refused trace, also on those which do not hold
    the trace's own part and on the pieces of a value that was cut.
    """
    if letter.reason == DeadReason.NO_EXPERIMENT and repr(experiment) in letter.message:
        return True
    event = decode(letter.value)
    if isinstance(event, Rejection) or not isinstance(event, Fragment) or event.trace is None:
        return False
    return experiment in {event.trace.experiment_id, event.trace.experiment}


def header_text(value: bytes | None) -> str:
    """A header's value as text, whatever its bytes are."""
    return "" if value is None else value.decode("utf-8", "backslashreplace")


def _own(headers: _Headers) -> dict[str, str]:
    return {
        name.removeprefix(HEADER_PREFIX): header_text(value)
        for name, value in headers
        if name.startswith(HEADER_PREFIX)
    }


def _number(text: str | None) -> int | None:
    """A whole number from 0 to 2**63 - 1, or None."""
    if text is None or not (text.isascii() and text.isdecimal() and len(text) <= 19):
        return None
    return min(int(text), 2**63 - 1)
