"""Redaction reaches whatever leaves the thread, through spanferry's own API."""

import os
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

import spanferry
from spanferry import outlet as outlets
from spanferry.ended_span import EndedSpan
from spanferry.giants import GIANT_BYTES
from spanferry.parcel import Parcel, encoded
from spanferry.process import PROCESS
from spanferry.redaction import Redaction
from spanferry.settings import ConfigurationError, Settings, load_settings
from spanferry.testing import capture
from tests.producer.hostile import Hostile
from tests.producer.secrets import OPENAI_KEY

MAIL = "bob@example.com"
NOWHERE = "none:1"


def redacting(**options: Any) -> capture:
    options.setdefault("presets", ["all"])
    return capture(Settings(bootstrap_servers=NOWHERE, redact=Redaction(**options)))


@pytest.fixture
def captured(unsaid: None) -> Iterator[capture]:
    with redacting(fields=["ssn"]) as outlet:
        yield outlet


def everything(outlet: capture) -> bytes:
    """All that is handed over, as bytes."""
    out = [b""]
    for parcel in outlet.parcels:
        out += encoded(parcel.spans)
        out.append(msgspec.msgpack.encode((parcel.trace, parcel.assessment, parcel.session)))
        out += [attachment.data for attachment in parcel.attachments]
    return b"\n".join(out)


class Attachment:
    """As MLflow's."""

    id = "5d1f9c1e-0000-4000-8000-000000000001"
    content_type = "text/plain"
    content_bytes = MAIL.encode()

    def ref(self, trace_id: str) -> str:
        return f"mlflow-attachment://{self.id}?trace_id={trace_id}"


Attachment.__module__ = "mlflow.tracing.attachments"


@spanferry.trace(attributes={"asked by": MAIL})
def asked(question: str) -> str:
    return question


@spanferry.trace
def streamed(mail: str) -> Iterator[Any]:
    yield mail
    yield {"delta": mail, "ü": 1}


def test_nothing_that_an_app_can_say_of_a_trace_gets_through(captured: capture) -> None:
    with (
        spanferry.context(metadata={"from": MAIL}, tags={MAIL: "x"}),
        spanferry.start_span(f"root of {MAIL}", attributes={"a": MAIL, MAIL: 1}) as root,
    ):
        root.set_inputs({"ssn": MAIL, "q": MAIL, "file": Attachment()})
        root.set_outputs([MAIL, Hostile()])
        root.add_event(spanferry.SpanEvent(MAIL, attributes={"e": MAIL, MAIL: 2}))
        root.add_link(spanferry.Link("1", "2", {"l": MAIL}))
        root.set_description(MAIL)
        root.set_span_type(MAIL)
        spanferry.update_current_trace(
            tags={"t": MAIL, "ssn": "123"},
            metadata={"m": MAIL},
            request_preview=MAIL,
            response_preview=MAIL,
        )
        with pytest.raises(ValueError, match=MAIL), spanferry.start_span("fails"):
            raise ValueError(MAIL)
        asked(MAIL)
        list(streamed(MAIL))
        late = spanferry.start_span_no_context(f"late {MAIL}", inputs=MAIL)
        late.rename(f"later {MAIL}")
    late.set_status(spanferry.SpanStatus("ERROR", MAIL))
    late.end(outputs=MAIL)
    spanferry.log_feedback(
        trace_id=root.trace_id,
        name=MAIL,
        value={"v": MAIL},
        rationale=MAIL,
        metadata={"m": MAIL},
        error=ValueError(MAIL),
    )
    spanferry.log_expectation(trace_id=root.trace_id, name="ssn", value="123456")
    sent = everything(captured)
    assert MAIL.encode() not in sent
    assert b"123456" not in sent
    assert sent.count(b"[REDACTED:email]") > 25
    trace = captured.traces[0]
    assert trace.complete or len(trace.spans) == 5
    assert trace.span("root of [REDACTED:email]").inputs["file"] == "[REDACTED:attachment]"
    assert trace.tags["ssn"] == "[REDACTED:ssn]"
    (fails,) = [span for span in trace.spans if span.name == "fails"]
    assert fails.status.description == "ValueError: [REDACTED:email]"
    assert "[REDACTED:email]" in fails.events[0].attributes["exception.stacktrace"]
    chunks = trace.span("streamed").events
    assert [chunk.attributes["mlflow.chunk.value"] for chunk in chunks] == [
        '"[REDACTED:email]"',
        '{"delta":"[REDACTED:email]","ü":1}',
    ]


def test_identities_and_attachments_pass_or_not_as_the_app_wants() -> None:
    for wanted in (False, True):
        with redacting(identities=wanted, attachments=wanted) as captured:
            with spanferry.start_span("root") as root:
                root.set_inputs([Attachment()])
                spanferry.update_current_trace(
                    session_id=MAIL, user=MAIL, client_request_id=MAIL, metadata={"m": MAIL}
                )
            spanferry.log_feedback(
                client_request_id=MAIL,
                value=1,
                source=spanferry.AssessmentSource("HUMAN", MAIL),
            )
        (trace,) = captured.traces
        (judged,) = captured.assessments
        kept = "[REDACTED:email]" if wanted else MAIL
        assert trace.metadata["mlflow.trace.session"] == trace.metadata["mlflow.trace.user"] == kept
        assert trace.client_request_id == judged.client_request_id == kept
        assert judged.event.source_id == kept
        assert trace.metadata["m"] == "[REDACTED:email]"
        assert len(captured.parcels[0].attachments) == int(wanted)
        assert captured.parcels[0].session == kept


def test_what_is_handed_over_while_the_trace_goes_on_is_redacted_too() -> None:
    settings = Settings(
        bootstrap_servers=NOWHERE, fragment_bytes=1024, redact=Redaction(presets=["emails"])
    )
    with capture(settings) as captured, spanferry.start_span("root"):
        spanferry.update_current_trace(tags={"t": MAIL}, session_id="s")
        for _ in range(5):
            with spanferry.start_span("child") as child:
                child.set_inputs([MAIL, "x" * 2_000])
    assert len(captured.parcels) > 3
    assert MAIL.encode() not in everything(captured)
    assert {parcel.session for parcel in captured.parcels} == {"s"}


def test_who_changes_a_trace_while_it_ends_gets_nothing_through(captured: capture) -> None:
    """Another thread has looked whether the trace is open, and writes when it has ended."""
    with spanferry.start_span("root") as root:
        facts, attributes = root.trace.facts, root
        root.set_attribute("a", 1)
        own = root._attributes
    assert own is not None
    facts.tags["late"] = facts.metadata["late"] = MAIL
    own["late"] = MAIL.encode()
    root.trace.changed = True
    assert attributes.end_time_ns is not None
    assert MAIL.encode() not in everything(captured)


def test_spans_that_end_after_disable_are_redacted_still(captured: capture) -> None:
    root = spanferry.start_span_no_context("root", inputs=MAIL)
    outlets.install(None)
    root.end(outputs=MAIL)
    assert len(captured.parcels) == 1
    assert MAIL.encode() not in everything(captured)


def test_a_function_is_told_what_it_is_given() -> None:
    places: list[str] = []

    def function(value: Any, place: str) -> Any:
        places.append(place)
        return value

    with redacting(presets=[], function=function), spanferry.start_span("root") as root:
        root.set_inputs(1)
        root.set_outputs(2)
        root.set_attribute("mine", 3)
        root.add_event(spanferry.SpanEvent("moment"))
        spanferry.update_current_trace(tags={"tier": "gold"}, metadata={"m": "x"})
    assert {"inputs", "outputs", "mine", "event moment", "tag tier", "metadata m", "name"} <= {
        *places
    }


def test_redaction_that_fails_loses_no_trace_and_sends_nothing(unsaid: None) -> None:
    def function(value: Any, place: str) -> Any:
        raise ZeroDivisionError

    with redacting(presets=[], function=function) as captured:
        with spanferry.start_span(MAIL) as root:
            root.set_inputs(MAIL)
            root.add_event(spanferry.SpanEvent("e", attributes={"a": MAIL}))
            spanferry.update_current_trace(tags={"t": MAIL})
        withheld = outlets.finished().withheld
    (trace,) = captured.traces
    assert trace.root.inputs == "[REDACTED:withheld]"
    assert trace.root.events[0].attributes == {"redacted": "[REDACTED:withheld]"}
    assert trace.tags["t"] == "[REDACTED:withheld]"
    assert MAIL.encode() not in everything(captured)
    assert withheld >= 4


def test_a_fault_of_ours_costs_a_spans_content_only(captured: capture) -> None:
    with spanferry.start_span("root"), spanferry.start_span("child") as child:
        child.set_inputs(MAIL)
        child._links = (SimpleNamespace(attributes=b"{}"),)  # type: ignore[assignment]
    (trace,) = captured.traces
    assert [span.name for span in trace.spans] == ["root", "[REDACTED:withheld]"]
    assert trace.complete
    assert outlets.finished().withheld == 1


def test_without_redaction_nothing_of_it_is_there() -> None:
    with capture() as captured:
        assert PROCESS.finish_above == GIANT_BYTES
        assert PROCESS.finisher.changes_above == 32 * 1024 * 1024
        with spanferry.start_span("root") as root:
            root.set_inputs([MAIL, OPENAI_KEY])
    assert captured.traces[0].root.inputs == [MAIL, OPENAI_KEY]
    (span,) = captured.parcels[0].spans
    assert isinstance(span, EndedSpan)


def test_several_threads_at_once(captured: capture) -> None:
    def work() -> None:
        for number in range(50):
            with spanferry.start_span("root") as root:
                root.set_inputs({"q": MAIL, f"key{number}": MAIL, "n": number})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(captured.traces) == 200
    assert MAIL.encode() not in everything(captured)


def test_what_the_process_says_of_itself_is_redacted() -> None:
    with redacting(presets=["passwords"]):
        said = PROCESS.finisher.texts({"repo": "https://me:hunter22x@github.com/a/b", "v": "1"})
    assert said == {"repo": "https://me:[REDACTED:password]@github.com/a/b", "v": "1"}


def test_a_forked_process_redacts_and_counts_for_itself(captured: capture) -> None:
    with spanferry.start_span("root") as root:
        root.set_inputs(MAIL)
    assert outlets.finished().redacted
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with spanferry.start_span("child") as span:
            span.set_inputs(MAIL)
        clean = MAIL.encode() not in everything(captured)
        os.write(write, b"1" if clean else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"1"
    os.close(read)
    os.close(write)


def test_as_options_and_from_the_environment() -> None:
    given = load_settings({"bootstrap_servers": NOWHERE, "redact": ["presets:emails"]}, {})
    assert given.redact == Redaction(presets=["emails"], fields=[], patterns={})
    read = load_settings(
        {"bootstrap_servers": NOWHERE},
        {"SPANFERRY_REDACT": "presets:all, field:ssn", "SPANFERRY_PAYLOAD_BYTES_MAX": "1000"},
    )
    assert read.redact == Redaction(presets=["all"], fields=["ssn"], patterns={})
    assert read.payload_bytes_max == 1000
    for wrong in ({"redact": "mails"}, {"payload_bytes_max": 5}):
        with pytest.raises(ConfigurationError):
            load_settings({"bootstrap_servers": NOWHERE, **wrong}, {})


def test_parcels_of_other_kinds_stay_what_they_are(captured: capture) -> None:
    with spanferry.start_span("root"):
        pass
    assert all(isinstance(parcel, Parcel) for parcel in captured.parcels)
