"""Spans as they are written to: attributes, status, events and links, encoded when they are set."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from spanferry import values
from spanferry.entities import (
    EventLike,
    LinkLike,
    SpanEvent,
    SpanLogLevel,
    SpanStatus,
    SpanStatusCode,
    StatusLike,
    event_to_wire,
    link_to_wire,
    log_level_of,
    status_of,
)
from spanferry.giants import encode_in_pieces
from spanferry.log import say_once
from spanferry.process import PROCESS
from spanferry.span_view import SpanView
from spanferry.stopping import let_through
from spanferry.values import AS_IT_CAME, ITS_TEXT, STRICT, dumps, encode
from spanferry_schemas import SpanEvent as WireEvent
from spanferry_schemas import StatusCode, mlflow_keys

__all__ = ["EVENTS_MAX", "SpanRecorder"]

EVENTS_MAX: Final = 128
"""Events and links of one span: the newest are kept, as OpenTelemetry does under MLflow."""

_INPUTS: Final = mlflow_keys.SPAN_INPUTS
_OUTPUTS: Final = mlflow_keys.SPAN_OUTPUTS

_DEBUG: Final = b"10"
_ERROR: Final = b"40"


class SpanRecorder(SpanView):
    """What MLflow's spans let one set while they are open. Values may change afterwards.

    No method raises. What cannot be used is said once in the log and left out.
    """

    __slots__ = ()

    def set_encoded(self, key: str, value: bytes) -> None:
        """Set an attribute whose value is a JSON text already."""
        if not self.is_open(key):
            return
        if key == _INPUTS:
            self._inputs = value
        elif key == _OUTPUTS:
            self._outputs = value
        else:
            if self._attributes is None:
                self._attributes = {}
            self._attributes[key] = value

    def set_inputs(self, inputs: Any) -> None:
        """Record what went in."""
        if self._end_ns is None or self.is_open("inputs"):
            try:  # what `encode` does first, without the call
                if PROCESS.roomy:
                    self._inputs = dumps(inputs, None, AS_IT_CAME)
                elif PROCESS.giants and self._name in PROCESS.giants:
                    self._inputs = encode_in_pieces(inputs)
                else:
                    self._inputs = dumps(inputs, None, STRICT)[ITS_TEXT]
            except BaseException as error:  # noqa: BLE001  whatever a user's value does
                let_through(error)
                self._inputs = encode(inputs, self.attach)

    def set_outputs(self, outputs: Any) -> None:
        """Record what came out."""
        if self._end_ns is None or self.is_open("outputs"):
            try:
                if PROCESS.roomy:
                    self._outputs = dumps(outputs, None, AS_IT_CAME)
                elif PROCESS.giants and self._name in PROCESS.giants:
                    self._outputs = encode_in_pieces(outputs)
                else:
                    self._outputs = dumps(outputs, None, STRICT)[ITS_TEXT]
            except BaseException as error:  # noqa: BLE001  whatever a user's value does
                let_through(error)
                self._outputs = encode(outputs, self.attach)

    def set_attribute(self, key: str, value: Any) -> None:
        """Set one attribute; a later value replaces an earlier one."""
        if not _is_str(key):
            say_once("attribute-key", "attribute keys must be strings, %s is left out", type(key))
        elif key == mlflow_keys.SPAN_TYPE:
            self.set_span_type(value)
        elif key != mlflow_keys.REQUEST_ID:
            self.set_encoded(str.__str__(key), encode(value))

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set several attributes."""
        try:
            pairs = list(attributes.items())
        except BaseException as error:  # noqa: BLE001  whatever a user's mapping does
            let_through(error)
            say_once("attributes", "attributes must be a dict, %s is left out", type(attributes))
            return
        for key, value in pairs:
            self.set_attribute(key, value)

    def set_span_type(self, span_type: str) -> None:
        """Say what kind of work this is."""
        if self.is_open("span_type"):
            self._span_type = span_type

    def set_description(self, description: str) -> None:
        """Describe the span in words."""
        self.set_attribute(mlflow_keys.SPAN_DESCRIPTION, description)

    def set_log_level(self, level: SpanLogLevel | str) -> None:
        """Say how much the span matters: a SpanLogLevel or its name."""
        known = log_level_of(level)
        if known is None:
            say_once("log-level", "%s is not a span log level and is left out", values.text(level))
        else:
            self.set_encoded(mlflow_keys.SPAN_LOG_LEVEL, b"%d" % known)

    def set_status(self, status: StatusLike | SpanStatusCode | str) -> None:
        """Say how it went. As in OpenTelemetry, OK stays and UNSET changes nothing."""
        known = status_of(status)
        if known is None:
            say_once("status", "%s is not a span status and is left out", values.text(status))
        elif (
            self._status is not StatusCode.OK
            and known[0] is not StatusCode.UNSET
            and self.is_open("status")
        ):
            self._status, self._message = known

    def add_event(self, event: EventLike) -> None:
        """Add a moment. One named `exception` raises the log level to ERROR."""
        try:
            wire = event_to_wire(event)
        except BaseException as error:  # noqa: BLE001  whatever a user's event does
            let_through(error)
            say_once("event", "a span event could not be used: %s", values.text(error))
            return
        if not self.is_open("event"):
            return
        self._events = (*self._events[1 - EVENTS_MAX :], wire)
        if wire.name == "exception":
            level = (self._attributes or {}).get(mlflow_keys.SPAN_LOG_LEVEL, _DEBUG)
            self.set_encoded(mlflow_keys.SPAN_LOG_LEVEL, max(level, _ERROR))

    def add_encoded_events(self, events: Iterable[WireEvent]) -> None:
        """Add moments that are encoded already, in the order of their times with those there are."""
        if self.is_open("events"):
            merged = sorted((*self._events, *events), key=lambda event: event.time_ns)
            self._events = merged[-EVENTS_MAX:]

    def add_link(self, link: LinkLike) -> None:
        """Point to another span."""
        try:
            wire = link_to_wire(link)
        except BaseException as error:  # noqa: BLE001  whatever a user's link does
            let_through(error)
            say_once("link", "a span link could not be used: %s", values.text(error))
            return
        if self.is_open("link"):
            self._links = (*self._links[1 - EVENTS_MAX :], wire)

    def record_exception(self, exception: BaseException | str) -> None:
        """Add an exception event and set the status to ERROR."""
        if _is_str(exception):
            exception = Exception(exception)
        if not issubclass(type(exception), BaseException):
            say_once("exception", "record_exception takes an exception or a text, nothing else")
            return
        try:
            event = SpanEvent.from_exception(cast("BaseException", exception))
            message = (
                f"{event.attributes['exception.type']}: {event.attributes['exception.message']}"
            )
            self.add_event(event)
            self.set_status(SpanStatus(SpanStatusCode.ERROR, message))
        except BaseException as error:  # noqa: BLE001  whatever a user's exception does
            let_through(error)
            say_once("exception", "an exception could not be recorded: %s", values.text(error))

    def attach(self, attachment: Any) -> str:
        """Take MLflow's Attachment; the text that stands for it in inputs and outputs."""
        return values.text(attachment)

    def is_open(self, what: str) -> bool:
        """Whether `what` may still be set; said once where it may not."""
        if self._end_ns is None:
            return True
        say_once("span-ended", "span %s has ended: %s is ignored", values.text(self._name), what)
        return False


def _is_str(value: object) -> bool:
    """By type alone: isinstance would ask the value, and a value may raise."""
    return issubclass(type(value), str)
