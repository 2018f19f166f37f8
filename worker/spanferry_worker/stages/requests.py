"""requests: how a tracking server is asked: how often, how much at once, and when it wants to be left."""

import contextlib
import math
from datetime import UTC
from email.utils import parsedate_to_datetime

import msgspec
from msgspec import Struct

from spanferry_schemas.security import Secret

__all__ = ["RequestPace", "RequestPolicy", "SizeLimit", "retry_after_s"]


class RequestPolicy(Struct, frozen=True, kw_only=True):
    """Limits of one worker process towards one tracking server."""

    requests_per_s: float | None = None
    """How often the server is asked at most, by each worker process. Default: as often as it answers; 50
    where MLflow is Databricks."""
    requests_at_once_max: int = 16
    """Requests under way at once, and connections."""
    request_traces_max: int = 100
    """Traces whose spans go in one request."""
    request_bytes_max: int = 4_000_000
    """Text of spans in one request, before it is compressed; a trace with more goes in several. It is
    halved when the server, or a proxy before it, finds a request too large or does not answer in time."""
    retry_after_max_s: float = 300.0
    """How long a server is left alone at most when it asks for that (`Retry-After`)."""
    headers: dict[str, str] = {}
    """Sent with every request to the server, as a gateway before it may want. Values are shown nowhere."""

    def __post_init__(self) -> None:
        if self.requests_per_s is not None and self.requests_per_s <= 0:
            raise ValueError("requests_per_s must be above 0")
        if (
            min(self.requests_at_once_max, self.request_traces_max, self.request_bytes_max) < 1
            or self.retry_after_max_s < 0
        ):
            raise ValueError(
                "requests_at_once_max, request_traces_max and request_bytes_max must be at least 1, "
                "retry_after_max_s at least 0"
            )
        hidden = {
            name: value if isinstance(value, Secret) else Secret(value)
            for name, value in self.headers.items()
        }
        msgspec.structs.force_setattr(self, "headers", hidden)

    def plain_headers(self) -> dict[str, str]:
        """The headers as they are sent."""
        return {name: value.encode().decode() for name, value in self.headers.items()}


class RequestPace:
    """When the next request may go. `now_s` is one clock that never goes back.

    A token bucket that holds a tenth of a second's requests, and a gate that a server's `Retry-After`
    closes.
    """

    BURST_S = 0.1

    def __init__(self, per_s: float | None, *, closed_max_s: float = 0.0) -> None:
        """`per_s`: None lets all through. `closed_max_s`: how long the gate stays closed at most."""
        self._interval_s = 1 / per_s if per_s else 0.0
        self._closed_max_s = closed_max_s
        self._next_s = -math.inf
        self._open_at_s = -math.inf

    def take(self, now_s: float) -> float:
        """Take the next place; returns how long to wait for it, in seconds."""
        if not self._interval_s:
            return 0.0
        spared = max(0.0, self.BURST_S - self._interval_s)
        at_s = max(self._next_s, now_s - spared)
        self._next_s = at_s + self._interval_s
        return max(0.0, at_s - now_s)

    def close(self, now_s: float, for_s: float) -> None:
        """The server wants to be left alone for so long."""
        self._open_at_s = max(self._open_at_s, now_s + min(for_s, self._closed_max_s))

    def closed_s(self, now_s: float) -> float:
        """For how much longer the server wants to be left alone."""
        return max(0.0, self._open_at_s - now_s)


def retry_after_s(text: str | None, unix_s: float) -> float | None:
    """What a header `Retry-After` asks for, in seconds from now; None where it says nothing.

    Either seconds or a date (RFC 9110, 10.2.3). `unix_s`: seconds since 1970.
    """
    if not text:
        return None
    with contextlib.suppress(ValueError):
        seconds = float(text)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, date.timestamp() - unix_s)


class SizeLimit:
    """How large the next request may be. What was too large is not tried again; what was too slow is,
    bit by bit, for a server may have been ill."""

    LEAST = 32_000
    """Below it a server is not refusing the size."""

    def __init__(self, bytes_max: int) -> None:
        self._ceiling = bytes_max
        self.bytes_max = bytes_max

    def too_large(self, size: int) -> None:
        """A request of that size was refused for it (413)."""
        least = min(self.LEAST, self._ceiling)
        self._ceiling = max(least, min(self._ceiling, size) // 2)
        self.bytes_max = min(self.bytes_max, self._ceiling)

    def too_slow(self) -> None:
        """A request was not answered in time."""
        self.bytes_max = max(min(self.LEAST, self._ceiling), self.bytes_max // 2)

    def accepted(self) -> None:
        """A request was answered."""
        self.bytes_max = min(self._ceiling, self.bytes_max + self.bytes_max // 10 + 1)
