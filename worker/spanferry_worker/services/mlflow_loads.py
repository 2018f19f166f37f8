"""Which spans go to a tracking server in one request, and what becomes of those that it does not take."""

import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from mlflow.entities import Span

from spanferry_worker.errors import PoisonError, TransientError
from spanferry_worker.services.http_client import TimedOutError
from spanferry_worker.services.mlflow_backend import span_chars
from spanferry_worker.services.mlflow_errors import SuspectedError
from spanferry_worker.services.mlflow_server import IllAnswerError, Server, TooLargeError
from spanferry_worker.services.mlflow_witness import Witness, export_request
from spanferry_worker.stages.requests import RequestPolicy, SizeLimit
from spanferry_worker.stages.suspects import Suspects

__all__ = ["Load", "Loads", "SpanSender"]

FAILURES_MAX: Final = 16
"""Loads that fail one after the other; then an ill server is left alone."""


class Load(NamedTuple):
    """What one request carries: spans of traces of one experiment, by trace id."""

    experiment_id: str
    pieces: Mapping[str, Sequence[Span]]

    @property
    def spans(self) -> list[Span]:
        return [span for piece in self.pieces.values() for span in piece]

    @property
    def size(self) -> int:
        """Text of attributes, in characters."""
        return sum(map(span_chars, self.spans))


class Loads:
    """The loads of one write: ask for `load`, send it, say how it went.

    A load that is refused is halved until the trace is alone that is to blame; one that is too large is
    halved as well, at last between the spans of a trace.
    """

    def __init__(
        self,
        experiments: Mapping[str, str],
        spans: Mapping[str, Sequence[Span]],
        *,
        bytes_max: int,
        traces_max: int,
    ) -> None:
        """Experiment ids and spans by trace id. `bytes_max` counts the text of attributes; a trace with
        more goes in several loads."""
        self.refused: dict[str, PoisonError] = {}
        """Errors by trace id."""
        self.aside: set[str] = set()
        """Traces of which something is left for another write."""
        self.cut: set[str] = set()
        """Traces whose spans go, or went, in more than one load."""
        self._left = _packed(experiments, spans, bytes_max=bytes_max, traces_max=traces_max)
        self._left.reverse()
        seen: set[str] = set()
        for each in self._left:
            self.cut |= seen & each.pieces.keys()
            seen |= each.pieces.keys()

    @property
    def load(self) -> Load | None:
        """What to send next; None at the end."""
        return self._left[-1] if self._left else None

    def accepted(self) -> None:
        """The load is stored."""
        self._left.pop()

    def refuse(self, error: PoisonError) -> None:
        """The server refuses the load, whatever its size."""
        load = self._left.pop()
        if len(load.pieces) > 1:
            self._left += _between_traces(load)
            return
        (trace_id,) = load.pieces
        self.refused[trace_id] = error
        kept: list[Load] = []
        for other in self._left:
            pieces = {key: piece for key, piece in other.pieces.items() if key != trace_id}
            if pieces:
                kept.append(other._replace(pieces=pieces))
        self._left = kept

    def set_aside(self) -> None:
        """The load is left for another write."""
        self.aside |= self._left.pop().pieces.keys()

    def halve(self) -> bool:
        """The load is too large. False, and nothing is changed, where it is a single span."""
        load = self._left[-1]
        if len(load.pieces) > 1:
            self._left[-1:] = _between_traces(load)
            return True
        ((trace_id, spans),) = load.pieces.items()
        if len(spans) == 1:
            return False
        middle = len(spans) // 2
        self.cut.add(trace_id)
        self._left[-1:] = [
            load._replace(pieces={trace_id: half}) for half in (spans[middle:], spans[:middle])
        ]
        return True


def _between_traces(load: Load) -> list[Load]:
    """Its halves, the first one last."""
    items = list(load.pieces.items())
    middle = len(items) // 2
    return [load._replace(pieces=dict(half)) for half in (items[middle:], items[:middle])]


def _packed(
    experiments: Mapping[str, str],
    spans: Mapping[str, Sequence[Span]],
    *,
    bytes_max: int,
    traces_max: int,
) -> list[Load]:
    loads: list[Load] = []
    open_loads: dict[str, tuple[dict[str, Sequence[Span]], int]] = {}
    for trace_id, experiment_id in experiments.items():
        for piece, size in _pieces(spans[trace_id], bytes_max):
            some, filled = open_loads.get(experiment_id, ({}, 0))
            full = filled + size > bytes_max or len(some) >= traces_max
            if not some or full or trace_id in some:
                some, filled = {}, 0
                loads.append(Load(experiment_id, some))
            some[trace_id] = piece
            open_loads[experiment_id] = (some, filled + size)
    return loads


def _pieces(spans: Sequence[Span], bytes_max: int) -> list[tuple[Sequence[Span], int]]:
    """The spans of one trace in pieces of at most that size, with their sizes."""
    pieces: list[tuple[Sequence[Span], int]] = []
    piece: list[Span] = []
    filled = 0
    for span in spans:
        size = span_chars(span)
        if piece and filled + size > bytes_max:
            pieces.append((piece, filled))
            piece, filled = [], 0
        piece.append(span)
        filled += size
    return [*pieces, (piece, filled)] if piece else pieces


class SpanSender:
    """Sends spans to one server in requests that are as large as it takes. Several threads may use it."""

    def __init__(self, server: Server, policy: RequestPolicy) -> None:
        self._server = server
        self._policy = policy
        self._limit = SizeLimit(policy.request_bytes_max)
        self._suspects = Suspects()
        self._witness = Witness(server)

    def send(self, experiments: Mapping[str, str], spans: Mapping[str, Sequence[Span]]) -> Loads:
        """Spans by trace id, experiment ids by trace id; the result says what was refused.

        Raises TransientError, after which any part of it may be stored: SuspectedError where all is but
        what a server that is well does not take.
        """
        loads = Loads(
            experiments,
            spans,
            bytes_max=self._limit.bytes_max,
            traces_max=self._policy.request_traces_max,
        )
        failures = 0
        away: TransientError | None = None
        while (load := loads.load) is not None:
            try:
                self._send(loads, load)
            except IllAnswerError as error:
                failures += 1
                if self._doubt(loads, load, error):
                    failures = 0
                    away = away or SuspectedError(str(error))
                elif failures >= FAILURES_MAX:
                    raise
                elif len(load.spans) == 1:
                    away = error
            else:
                failures = 0
        self._suspects.taken(experiments.keys() - loads.refused.keys() - loads.aside)
        if away is not None and loads.aside:
            raise away
        return loads

    def _send(self, loads: Loads, load: Load) -> None:
        """Send one, and say how it went. Raises TransientError."""
        try:
            self._server.send_spans(load.experiment_id, export_request(load.spans))
        except TimedOutError:
            self._limit.too_slow()
            raise
        except TooLargeError as error:
            self._limit.too_large(load.size)
            if not loads.halve():
                loads.refuse(error)
        except PoisonError as error:
            loads.refuse(error)
        else:
            self._limit.accepted()
            self._witness.saw(load.experiment_id, load.spans)
            loads.accepted()

    def _doubt(self, loads: Loads, load: Load, error: IllAnswerError) -> bool:
        """Look for the span to blame, if there is one. True: the server has just stored something else.

        Raises the error where the server is ill, or before it is time to look.
        """
        if not self._server.is_well():
            self._suspects.absolve()
            raise error
        size = max(map(span_chars, load.spans))
        if len(load.spans) > 1:
            if not self._suspects.failed(load.pieces, size, time.monotonic()):
                raise error
            loads.halve()
            return False
        testified = self._witness.testifies()
        if testified is False:
            self._suspects.absolve()
        (trace_id,) = load.pieces
        if testified and self._suspects.struck(trace_id, size, time.monotonic()):
            loads.refuse(
                PoisonError(
                    f"{error} (so it answers again and again to a span of {size} characters, and "
                    "stores others meanwhile: its database may take no statement of that size, as "
                    "MySQL's max_allowed_packet has it)"
                )
            )
        else:
            loads.set_aside()
        return bool(testified)
