"""W3C Trace Context between services, by MLflow's two functions."""

import re
from collections.abc import Mapping
from types import TracebackType
from typing import Final

from spanferry import values
from spanferry.context import CurrentToken, RemoteParent, current, leave
from spanferry.log import say_once
from spanferry.spans import NoOpSpan
from spanferry.stopping import let_through
from spanferry_schemas.limits import SPAN_ID_BYTES, TRACE_ID_BYTES

__all__ = [
    "get_tracing_context_headers_for_http_request",
    "parse_context",
    "set_tracing_context_from_http_request_headers",
    "upstream_of",
]

_PARENT: Final = "traceparent"
_STATE: Final = "tracestate"
_MEMBER: Final = "spanferry"
"""Our entry in tracestate: the caller's span id and flags in hexadecimal. Proxies and gateways that
trace put a span of their own into traceparent, which MLflow never hears of, and pass tracestate on."""

_OTEL: Final = "ot"
_UPSTREAM: Final = re.compile(r"(?<![^;])(?:th:[0-9a-f]{1,14}|rv:[0-9a-f]{14})(?![^;])")
"""Rejection threshold and explicit randomness."""
_OTEL_CHARS_MAX: Final = 256
_SAMPLED_FLAG: Final = 1
_FIELDS: Final = 4


def get_tracing_context_headers_for_http_request() -> dict[str, str]:
    """Headers that let the service that is called next add its spans to this trace: `traceparent`,
    as MLflow gives it, and `tracestate`.

    Ask anew for every request that is sent: each answer counts as one service to wait for. Empty
    where there is no current span.
    """
    span = current.get()
    if isinstance(span, RemoteParent):
        return _headers(span.trace_id, span.span_id, sampled=span.sampled, ours=span.ours)
    if isinstance(span, NoOpSpan):
        return _headers(span.otel_trace_id, span.span_id_bytes, sampled=False)
    if span is None or span.trace is None:
        say_once("no-context", "there is no current span: the request carries no tracing context")
        return {}
    span.trace.contexts_out += 1  # a lost update lets the worker wait less; what is late is added
    return _headers(span.trace.trace_id, span.span_id_bytes, sampled=True)


class set_tracing_context_from_http_request_headers:  # noqa: N801  MLflow's name
    """Context manager for the service that is called: spans inside go under the caller's span.

    Without a sound `traceparent` among the headers (in any case of letters) nothing is changed.
    """

    __slots__ = ("_headers", "_token")

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers
        self._token: CurrentToken | None = None

    def __enter__(self) -> None:
        parent = _parent(self._headers)
        if parent is None:
            say_once(
                "traceparent", "there is no sound traceparent header: a trace of its own starts"
            )
        else:
            self._token = current.set(parent)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        stack: TracebackType | None,
    ) -> None:
        if self._token is not None:
            leave(self._token)


def parse_context(traceparent: str, tracestate: str, *, ours_only: bool) -> RemoteParent | None:
    """The caller's span as the two headers name it; None where they do not.

    `ours_only`: only a caller whose spans go to MLflow as well, which is what our entry in
    tracestate says; any other traceparent names a span that MLflow will never show.
    """
    parent = _parse_traceparent(traceparent)
    entry = _our_entry(tracestate)
    if parent is None or (entry is None and ours_only):
        return None
    if entry is None:
        return parent._replace(upstream=upstream_of(_member(tracestate, _OTEL)))
    span_id, sampled = entry[:SPAN_ID_BYTES], bool(entry[-1] & _SAMPLED_FLAG)
    return RemoteParent(parent.trace_id, span_id, sampled, ours=True)


def _parse_traceparent(header: str) -> RemoteParent | None:
    """The span that a traceparent header names; None where it is not one."""
    fields = header.strip().split("-")
    if len(fields) < _FIELDS or fields[0] == "ff" or (fields[0] == "00" and len(fields) != _FIELDS):
        return None
    if any(field != field.lower() for field in fields[:_FIELDS]):
        return None
    try:
        version, trace_id, span_id, flags = (bytes.fromhex(field) for field in fields[:_FIELDS])
    except ValueError:
        return None
    lengths = (len(version), len(trace_id), len(span_id), len(flags))
    if lengths != (1, TRACE_ID_BYTES, SPAN_ID_BYTES, 1) or not any(trace_id) or not any(span_id):
        return None
    return RemoteParent(trace_id, span_id, bool(flags[0] & _SAMPLED_FLAG))


def _our_entry(tracestate: str) -> bytes | None:
    try:
        entry = bytes.fromhex(_member(tracestate, _MEMBER))
    except ValueError:
        return None
    return entry if len(entry) == SPAN_ID_BYTES + 1 and any(entry[:-1]) else None


def _member(tracestate: str, wanted: str) -> str:
    """A vendor's entry in tracestate; empty where there is none."""
    for member in tracestate.split(","):
        name, _, value = member.strip().partition("=")
        if name == wanted:
            return value
    return ""


def upstream_of(entry: str) -> str:
    """What OpenTelemetry's entry in tracestate says of sampling, as the worker reads it."""
    return ";".join(match[0] for match in _UPSTREAM.finditer(entry[:_OTEL_CHARS_MAX]))


def _parent(headers: Mapping[str, str]) -> RemoteParent | None:
    try:
        found = {values.text(name).lower(): values.text(value) for name, value in headers.items()}
        return parse_context(found.get(_PARENT, ""), found.get(_STATE, ""), ours_only=False)
    except BaseException as error:  # noqa: BLE001  whatever a framework's headers do
        let_through(error)
        say_once("headers", "request headers could not be read: %s", values.text(error))
    return None


def _headers(
    trace_id: bytes, span_id: bytes, *, sampled: bool, ours: bool = True
) -> dict[str, str]:
    if not any(trace_id):
        return {}
    flags = "01" if sampled else "00"
    headers = {_PARENT: f"00-{trace_id.hex()}-{span_id.hex()}-{flags}"}
    if ours:
        headers[_STATE] = f"{_MEMBER}={span_id.hex()}{flags}"
    return headers
