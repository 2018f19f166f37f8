"""The same program under MLflow's fluent API and under spanferry's: the same spans, word for word."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import mlflow
import pytest

import spanferry
from spanferry.testing import capture

LEFT_OUT = {"mlflow.traceRequestId"}
TRACE_KEYS = {
    "mlflow.traceName",
    "mlflow.trace.session",
    "mlflow.trace.user",
    "mlflow.modelId",
    "mlflow.sourceRun",
    "own",
    "number",
}


def nested(api: Any) -> None:
    """Context managers, types, levels, statuses."""
    with api.start_span("root", span_type="AGENT") as root:
        root.set_inputs({"question": "why?"})
        with api.start_span("child", span_type="CHAT_MODEL", attributes={"a": 1}) as child:
            child.set_attribute("b", [1, "x", None])
            child.set_attributes({"c": {"d": 2.5}})
            child.set_outputs(None)
        with api.start_span("child") as same_name:
            same_name.set_span_type("own type")
            same_name.set_description("in words")
            same_name.set_log_level("critical")
        with api.start_span("ok stays") as kept:
            kept.set_status("OK")
            kept.set_status("ERROR")
        with api.start_span("error goes") as changed:
            changed.set_status("ERROR")
            changed.set_status("OK")
        with api.start_span("error stays") as failed:
            failed.set_status("ERROR")
        root.set_outputs(("a", 1))


def failing(api: Any) -> None:
    """Exceptions through several spans, and one that is no Exception."""
    outer, inner = api.start_span("outer", span_type="LLM"), api.start_span("inner")
    with contextlib.suppress(ValueError), outer, inner as span:
        span.set_log_level("CRITICAL")
        raise ValueError("wrong")
    with contextlib.suppress(SystemExit), api.start_span("exits"):
        raise SystemExit(1)
    with api.start_span("records") as span:
        span.record_exception("in words")
        span.record_exception(KeyError("key"))
        span.set_status("OK")


def decorated(api: Any) -> None:
    """Functions and methods of every kind."""

    @api.trace
    def plain(a: int, b: int = 2, *args: int, c: int = 3, **kwargs: int) -> int:
        return a + b

    @api.trace(name="named", span_type="TOOL", attributes={"x": 1}, log_level="WARNING")
    def own_outputs(a: int) -> int:
        api.get_current_active_span().set_outputs("mine")
        return a

    @api.trace(description="gives nothing")
    def nothing() -> None:
        return None

    @api.trace
    def fails(a: int) -> None:
        raise KeyError(a)

    class Methods:
        @api.trace
        def method(self, a: int) -> int:
            return plain(a)

        @classmethod
        @api.trace
        def class_method(cls, a: int) -> int:
            return a

        @api.trace
        @staticmethod
        def static_method(a: int) -> int:
            return a

    plain(1)
    plain(1, 5, 6, 7, c=8, d=9)
    own_outputs(a=4)
    nothing()
    with contextlib.suppress(KeyError):
        fails(3)
    Methods().method(1)
    Methods.class_method(2)
    Methods.static_method(3)
    with contextlib.suppress(TypeError):
        plain()
    api.trace(divmod)(7, 2)


def generators(api: Any) -> None:
    """Streams: items as events, reducers, errors, more items than events are kept."""

    @api.trace(output_reducer="".join)
    def stream(n: int) -> Iterator[str]:
        with api.start_span("within"):
            pass
        for number in range(n):
            yield f"é{number}"

    @api.trace(output_reducer=lambda items: 1 / 0)
    def no_reduction() -> Iterator[dict[str, int]]:
        yield {"a": 1}

    @api.trace
    def breaks() -> Iterator[int]:
        api.get_current_active_span().set_outputs("so far")
        yield 1
        raise ValueError("broken")

    @api.trace
    def long() -> Iterator[int]:
        yield from range(140)

    list(stream(3))
    list(no_reduction())
    list(long())
    with contextlib.suppress(ValueError):
        list(breaks())


def detached(api: Any) -> None:
    """Spans that are started and ended by hand."""
    root = api.start_span_no_context(
        "root",
        inputs={"a": 1},
        attributes={"k": "v"},
        tags={"own": "tag", "mlflow.user": "left out"},
        metadata={"number": "1"},
        start_time_ns=1_700_000_000_000_000_000,
    )
    child = api.start_span_no_context("child", span_type="TOOL", parent_span=root)
    child.add_event(api_event(api)("happened", 1_700_000_000_000_000_001, {"a": 1, "b": "c"}))
    child.end(outputs=3, attributes={"late": True}, status="ERROR")
    root.end(end_time_ns=1_700_000_000_100_000_000)
    with api.start_span("around"):
        inside = api.start_span_no_context("inside")
        inside.end()


def named(api: Any) -> None:
    """What belongs to the trace."""
    with api.start_span("root", run_id="run-1") as root:
        link = api_link(api)(root.trace_id, root.span_id, {"a": 1})
        api.start_span_no_context("child", links=[link]).end()
        api.update_current_trace(
            tags={"own": "tag"},
            metadata={"number": "7"},
            client_request_id="request-1",
            request_preview="asked",
            response_preview="answered",
            state="ERROR",
            model_id="m-1",
            session_id="session-1",
            user="user-1",
        )


def api_event(api: Any) -> Callable[..., Any]:
    """SpanEvent of either."""
    return api.SpanEvent if api is spanferry else mlflow.entities.SpanEvent


def api_link(api: Any) -> Callable[..., Any]:
    """Link of either."""
    return api.Link if api is spanferry else mlflow.entities.Link


@pytest.fixture(scope="module")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow on an empty SQLite file, exporting at once."""
    folder = tmp_path_factory.mktemp("mlflow")
    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
        patch.setenv("MLFLOW_USE_BATCH_SPAN_PROCESSOR", "false")
        patch.chdir(folder)
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        mlflow.tracing.reset()
        yield
    mlflow.set_tracking_uri(before)
    mlflow.tracing.reset()


def events_of(span: Any) -> list[tuple[str, dict[str, Any]]]:
    """Name and attributes of each event; a stack trace only by its last line, its frames differ."""
    found = []
    for event in span.events:
        attributes = dict(event.attributes)
        if "exception.stacktrace" in attributes:
            attributes["exception.stacktrace"] = attributes["exception.stacktrace"].split("\n")[-1]
        found.append((event.name, attributes))
    return found


def story(spans: list[Any]) -> list[dict[str, Any]]:
    """All that must be equal of a trace's spans."""
    names = {span.span_id: span.name for span in spans}
    return [
        {
            "name": span.name,
            "parent": names.get(span.parent_id),
            "type": span.span_type,
            "status": (str(span.status.status_code.value), span.status.description),
            "attributes": {k: v for k, v in span.attributes.items() if k not in LEFT_OUT},
            "events": events_of(span),
            "links": [(link.span_id in names, link.attributes) for link in span.links],
        }
        for span in spans
    ]


def kept(texts: dict[str, str]) -> dict[str, str]:
    """Tags or metadata that the app itself decides."""
    return {key: value for key, value in texts.items() if key in TRACE_KEYS}


@pytest.mark.mlflow
@pytest.mark.usefixtures("mlflow_store")
@pytest.mark.parametrize("program", [nested, failing, decorated, generators, detached, named])
def test_the_same_program_gives_the_same_traces(
    program: Callable[[Any], None], captured: capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment_id = mlflow.create_experiment(program.__name__)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment_id)
    program(spanferry)
    program(mlflow)
    found = mlflow.search_traces(return_type="list", locations=[experiment_id])
    theirs = sorted(found, key=lambda trace: min(s.start_time_ns for s in trace.data.spans))
    ours = sorted(captured.traces, key=lambda trace: trace.root.start_time_ns)
    assert len(ours) == len(theirs) > 0
    for our, their in zip(ours, theirs, strict=True):
        spans = sorted(their.data.spans, key=lambda span: span.start_time_ns)
        assert story(our.spans) == story(spans)
        assert our.state == their.info.state
        assert kept(our.tags) == kept(their.info.tags)
        assert kept(our.metadata) == kept(their.info.trace_metadata)
        assert our.client_request_id == their.info.client_request_id
        if our.part.request_preview:
            assert our.part.request_preview == their.info.request_preview
            assert our.part.response_preview == their.info.response_preview
        assert our.complete
