"""What rules ask of a trace, found when it is asked for."""

from collections.abc import Iterable, Mapping

import msgspec

from spanferry_schemas import Span, StatusCode, TraceState
from spanferry_schemas.mlflow_keys import (
    METADATA_MODEL_ID,
    METADATA_SESSION,
    METADATA_USER,
    SPAN_COST,
    SPAN_TOKEN_USAGE,
    TAG_TRACE_NAME,
)
from spanferry_worker.stages.trace import AssembledTrace

__all__ = ["Traits"]

_usage = msgspec.json.Decoder(dict[str, float | None])
_levels = msgspec.json.Decoder(list[str])


class Traits:
    """One trace as rules see it. What nearly every policy asks for is found at once."""

    __slots__ = ("_failed", "root", "size", "trace")

    def __init__(self, trace: AssembledTrace) -> None:
        self.trace = trace
        self.size = trace.size
        """Record bytes without attachments."""
        if trace.attachments:
            self.size -= sum(len(one.data) for one in trace.attachments)
        root: Span | None = None
        failed, wrong = False, StatusCode.ERROR
        for span in trace.spans:
            if span.status is wrong:
                failed = True
            if span.parent_id is None and root is None:
                root = span
        self.root = root
        """The root span, if it is there."""
        self._failed = failed

    @property
    def name(self) -> str:
        """As MLflow lists the trace; empty where neither tag nor root is there."""
        tagged = self.trace.trace.tags.get(TAG_TRACE_NAME)
        if tagged is not None:
            return tagged
        return "" if self.root is None else self.root.name

    @property
    def state(self) -> str:
        """MLflow's state: the app's own word, else the root's status."""
        given = self.trace.trace.state
        if given is not None:
            return given.value
        if self.root is None or not self.root.end_ns:
            return "IN_PROGRESS"
        return "ERROR" if self.root.status is StatusCode.ERROR else "OK"

    @property
    def error(self) -> bool:
        """The state or any span's status is ERROR."""
        return self._failed or self.trace.trace.state is TraceState.ERROR

    @property
    def duration_s(self) -> float | None:
        """The root's; None where it is missing or has not ended."""
        root = self.root
        return None if root is None or not root.end_ns else (root.end_ns - root.start_ns) / 1e9

    @property
    def moment_ms(self) -> int:
        """When it ended, by its own clock: the root's end, else the latest time in any span; 0 without."""
        root = self.root
        if root is not None and root.end_ns:
            return root.end_ns // 1_000_000
        times = (max(span.start_ns, span.end_ns) for span in self.trace.spans)
        return max(times, default=0) // 1_000_000

    @property
    def session(self) -> str | None:
        """The session id."""
        return self.trace.trace.metadata.get(METADATA_SESSION)

    @property
    def conversation(self) -> str | None:
        """What is kept or not as a whole: the session, or its outermost level where it names several."""
        session = self.session
        if session is None or not session.startswith('["'):
            return session
        try:
            return _levels.decode(session)[0] or session
        except (msgspec.MsgspecError, UnicodeEncodeError):
            return session

    @property
    def user(self) -> str | None:
        """The user id."""
        return self.trace.trace.metadata.get(METADATA_USER)

    @property
    def experiments(self) -> tuple[str, ...]:
        """Name and id, as far as the app gave them."""
        part = self.trace.trace
        return tuple(one for one in (part.experiment, part.experiment_id) if one is not None)

    @property
    def active_models(self) -> tuple[str, ...]:
        """Name and id, as far as the app gave them."""
        part = self.trace.trace
        given = (part.active_model, part.metadata.get(METADATA_MODEL_ID))
        return tuple(one for one in given if one is not None)

    @property
    def tokens(self) -> float | None:
        """Total tokens; None where no span says how many."""
        return _total(self.trace.spans, SPAN_TOKEN_USAGE, "total_tokens")

    @property
    def cost(self) -> float | None:
        """Total cost in USD; None where no span says how much."""
        return _total(self.trace.spans, SPAN_COST, "total_cost")


def _total(spans: Iterable[Span], attribute: str, field: str) -> float | None:
    """Added up as MLflow does: what a span says of itself covers all below it."""
    known = {span.span_id: span for span in spans}
    amounts = {
        span_id: amount
        for span_id, span in known.items()
        if (amount := _amount(span.attributes, attribute, field)) is not None
    }
    if not amounts:
        return None
    return sum(
        amount
        for span_id, amount in amounts.items()
        if not _is_covered(known[span_id], known, amounts)
    )


def _is_covered(span: Span, known: Mapping[bytes, Span], amounts: Mapping[bytes, float]) -> bool:
    """Whether a span above it says an amount, too."""
    seen: set[bytes] = set()
    parent = span.parent_id
    while parent is not None and parent not in seen:
        if parent in amounts:
            return True
        seen.add(parent)
        above = known.get(parent)
        parent = None if above is None else above.parent_id
    return False


def _amount(attributes: Mapping[str, bytes], attribute: str, field: str) -> float | None:
    raw = attributes.get(attribute)
    if raw is None:
        return None
    try:
        return _usage.decode(raw).get(field)
    except msgspec.MsgspecError:
        return None
