"""mlflow.start_span: arguments, types, statuses, attributes, events, links."""

import contextlib
import datetime as dt

import mlflow
from mlflow.entities import SpanEvent, SpanStatus, SpanStatusCode, SpanType

from tests.mlflow_api.registry import program


@program()
def start_span_arguments(stage):
    with mlflow.start_span() as span:
        span.set_inputs({"q": 1})
    with mlflow.start_span("named", "AGENT", {"a": 1, "b": "x"}) as span:
        span.set_outputs(1)
    with mlflow.start_span(name="none for a type", span_type=None, attributes=None):
        pass


@program(since="3.15")
def start_span_level_and_links(stage):
    link = mlflow.entities.Link(trace_id="tr-" + "01" * 16, span_id="23" * 8)
    with mlflow.start_span("leveled", log_level="ERROR", links=[link, link]) as outer:
        with mlflow.start_span("inner", log_level=mlflow.entities.SpanLogLevel.INFO):
            pass
        with mlflow.start_span("broken link", links=[mlflow.entities.Link("nonsense", "zz")]):
            pass
        return len(outer.links)


@program(since="3.17.2")
def start_span_description(stage):
    with mlflow.start_span("described", description="why it is there") as span:
        span.set_inputs(1)
        with mlflow.start_span("later") as inner:
            inner.set_description("said later")


@program()
def every_span_type(stage):
    names = sorted(name for name in vars(SpanType) if name.isupper())
    with mlflow.start_span("root", span_type=SpanType.WORKFLOW):
        for name in names:
            with mlflow.start_span(name.lower(), span_type=getattr(SpanType, name)) as span:
                span.set_inputs({"type": name})
                span.set_outputs(name)
        with mlflow.start_span("mine", span_type="MY OWN"):
            pass
        with mlflow.start_span("changed", span_type="LLM") as span:
            span.set_span_type("TOOL")
    return names


@program()
def statuses(stage):
    with mlflow.start_span("root") as root:
        with mlflow.start_span("by word") as span:
            span.set_status("ERROR")
        with mlflow.start_span("by code") as span:
            span.set_status(SpanStatus(SpanStatusCode.ERROR, "in words"))
        with mlflow.start_span("ok stays") as span:
            span.set_status("OK")
            span.set_status("ERROR")
        with mlflow.start_span("error goes") as span:
            span.set_status("ERROR")
            span.set_status("OK")
        with mlflow.start_span("unset") as span:
            span.set_status("UNSET")
        root.set_status(SpanStatus("ERROR", "of the root"))


@program()
def wrong_status(stage):
    with mlflow.start_span("root") as span:
        try:
            span.set_status("MAYBE")
        except Exception as error:
            return type(error).__name__


@program()
def attributes_of_every_kind(stage):
    with mlflow.start_span("root", attributes={"at the start": True}) as span:
        for name, value in {
            "text": "ü",
            "empty": "",
            "whole": 3,
            "fraction": 0.5,
            "yes": True,
            "nothing": None,
            "list": [1, "a", None],
            "tuple": (1, 2),
            "dict": {"a": {"b": 1}},
            "json text": '{"a": 1}',
            "date": dt.date(2024, 1, 2),
            "class": object,
            "long": "x" * 5_000,
        }.items():
            span.set_attribute(name, value)
        span.set_attributes({"many": 1, "text": "overwritten"})
        span.set_attributes("not a dict")
        span.set_attribute("mlflow.custom", {"a": 1})
        span.set_attribute("gen_ai.request.model", "gpt-4o")


@program()
def inputs_set_twice(stage):
    with mlflow.start_span("root") as span:
        span.set_inputs({"first": 1})
        span.set_inputs({"second": 2})
        span.set_outputs(1)
        span.set_outputs(None)
        span.set_outputs([])


@program()
def empty_and_none(stage):
    for value in (None, "", 0, False, [], {}, ()):
        with mlflow.start_span(f"value {value!r}") as span:
            span.set_inputs(value)
            span.set_outputs(value)
    with mlflow.start_span("neither"):
        pass


@program()
def events(stage):
    with mlflow.start_span("root") as span:
        span.add_event(SpanEvent("step", attributes={"n": 1, "f": 0.5, "s": "ü", "b": True}))
        span.add_event(SpanEvent("lists", attributes={"l": ["a", "b"], "m": [1, 2]}))
        span.add_event(SpanEvent("empty"))
        span.add_event(SpanEvent("long ago", timestamp=1_600_000_000_000_000_000))
        return [(event.name, event.attributes) for event in span.events]


@program()
def events_with_odd_attributes(stage):
    with mlflow.start_span("root") as span:
        span.add_event(SpanEvent("dict", attributes={"d": {"a": 1}}))
        span.add_event(SpanEvent("none", attributes={"n": None, "o": object}))
        span.add_event(SpanEvent("mixed", attributes={"m": [1, "a"], "bytes": b"ab"}))


@program(since="3.13")
def links(stage):
    with mlflow.start_span("first") as first:
        pass
    with mlflow.start_span("second") as root:
        link = mlflow.entities.Link(first.trace_id, first.span_id, {"why": "continues", "n": 1})
        root.add_link(link)
        root.add_link(mlflow.entities.Link(trace_id="tr-" + "ab" * 16, span_id="cd" * 8))
        with mlflow.start_span("child") as child:
            child.add_link(mlflow.entities.Link(root.trace_id, root.span_id))
        return [one.attributes for one in root.links]


@program(since="3.13")
def wrong_links(stage):
    errors = []
    with mlflow.start_span("root") as root:
        for link in ("text", mlflow.entities.Link("nonsense", "x"), None):
            try:
                root.add_link(link)
            except Exception as error:
                errors.append(type(error).__name__)
    return errors


@program()
def record_exception(stage):
    with mlflow.start_span("root") as root:
        with mlflow.start_span("in words") as span:
            span.record_exception("something went wrong")
        with mlflow.start_span("raised") as span:
            try:
                {}["key"]
            except KeyError as error:
                span.record_exception(error)
        with mlflow.start_span("never raised") as span:
            span.record_exception(ValueError("made only"))
            span.set_status("OK")
        root.set_outputs("fine")


@program()
def wrong_exception(stage):
    with mlflow.start_span("root") as span:
        try:
            span.record_exception(42)
        except Exception as error:
            return type(error).__name__


@program(since="3.13")
def log_levels(stage):
    level = mlflow.entities.SpanLogLevel
    with mlflow.start_span("root") as root:
        root.set_log_level("WARNING")
        for span_type in ("LLM", "CHAIN", "TOOL", "PARSER", "UNKNOWN", "EMBEDDING", "own"):
            with mlflow.start_span(f"default of {span_type}", span_type=span_type):
                pass
        with mlflow.start_span("error") as span:
            span.record_exception("raises it")
        with mlflow.start_span("critical stays") as span:
            span.set_log_level(level.CRITICAL)
            span.record_exception("is less")
        with mlflow.start_span("by number") as span:
            span.set_log_level(level(10))
        return root.log_level


@program()
def ended_explicitly_and_twice(stage):
    with mlflow.start_span("root") as root:
        with mlflow.start_span("ended inside") as span:
            span.end(outputs={"a": 1}, attributes={"at": "the end"}, status="OK")
            span.set_outputs("too late")
            span.set_attribute("also", "too late")
            span.end(outputs="later still")
        with mlflow.start_span("ended with an error") as span:
            span.end(status=SpanStatus("ERROR", "said so"))
        root.end(outputs="of the root")
        with mlflow.start_span("child of an ended one"):
            pass


@program()
def odd_names(stage):
    for name in ("", "größe 日本語 🎉", "with\nnewline", "x" * 600, 'quote " and \\'):
        with mlflow.start_span(name):
            pass


@program()
def context_is_restored(stage):
    seen = [mlflow.get_current_active_span()]
    with contextlib.suppress(ValueError), mlflow.start_span("first"), mlflow.start_span("second"):
        raise ValueError("out of two")
    seen.append(mlflow.get_current_active_span())
    with mlflow.start_span("third") as third:
        seen.append(mlflow.get_current_active_span() is third)
    return seen
