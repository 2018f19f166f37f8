"""Payloads that are too large: cut with a mark, and in nobody's way."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import spanferry
from spanferry import outlet as outlets
from spanferry import values
from spanferry.buffer import Buffer
from spanferry.parcel import Parcel
from spanferry.redaction import Redaction
from spanferry.settings import DropPolicy, Settings
from spanferry.testing import capture
from spanferry_schemas import End
from spanferry_schemas.cutting import CUT_ATTRIBUTE, cut_json, cut_object

NOWHERE = "none:1"
MEBI = 1024 * 1024


def limited(bytes_max: int, **options: Any) -> capture:
    return capture(Settings(bootstrap_servers=NOWHERE, payload_bytes_max=bytes_max, **options))


def test_what_is_cut_says_what_there_was_and_the_rest_is_whole() -> None:
    with limited(1_000) as captured, spanferry.start_span("root") as root:
        root.set_inputs({"text": "why? " * 1_000})
        root.set_outputs("because " * 1_000)
        root.set_attribute("documents", list(range(10_000)))
        root.set_attribute("small", {"a": 1})
        root.add_event(spanferry.SpanEvent("e", attributes={"big": "x" * 5_000, "small": 1}))
        with spanferry.start_span("child") as child:
            child.set_inputs("small")
    (trace,) = captured.traces
    assert trace.complete
    span = trace.root
    assert span.attributes["small"] == {"a": 1}
    assert isinstance(span.inputs, str)
    assert span.inputs.startswith('{"text":"why? why?')
    assert span.outputs.startswith("because because")
    assert span.attributes["documents"].startswith("[0,1,2,")
    assert span.events[0].attributes["small"] == 1
    assert span.events[0].attributes["big"].endswith("x…")
    assert all(len(value) <= 1_000 for value in span.encoded_attributes().values())
    assert span.attributes[CUT_ATTRIBUTE] == {
        "mlflow.spanInputs": 5_011,
        "mlflow.spanOutputs": 8_002,
        "documents": len(values.encode(list(range(10_000)))),
        "events": 5_000 + len('{"big":"","small":1}') + 1,
    }
    assert CUT_ATTRIBUTE not in trace.span("child").attributes
    assert outlets.finished().truncated == 4


def test_secrets_are_replaced_before_payloads_are_cut() -> None:
    redact = Redaction(presets=["emails"])
    for shift in range(30):
        with limited(256, redact=redact) as captured, spanferry.start_span("root") as root:
            root.set_inputs("x" * (230 + shift) + " bob@example.com" + "y" * 1_000)
        assert "bob" not in captured.traces[0].root.inputs


def test_zero_switches_it_off_and_the_default_follows_the_buffer() -> None:
    for options, whole in (({"payload_bytes_max": 0}, True), ({"buffer_bytes": 2 * MEBI}, False)):
        settings = Settings(bootstrap_servers=NOWHERE, **options)
        with capture(settings) as captured, spanferry.start_span("root") as root:
            root.set_inputs("x" * 1_500_000)
        assert (len(captured.traces[0].root.inputs) == 1_500_000) is whole


def test_token_usage_is_never_cut() -> None:
    with limited(256) as captured, spanferry.start_span("root") as root:
        root.set_attribute("mlflow.chat.tokenUsage", {f"tokens {n}": n for n in range(100)})
    assert len(captured.traces[0].root.attributes["mlflow.chat.tokenUsage"]) == 100


@given(st.text() | st.lists(st.text()), st.integers(8, 200), st.booleans())
def test_a_preview_is_json_of_at_most_the_limit(
    data: Any, bytes_max: int, ascii_only: bool
) -> None:
    whole = json.dumps(data, ensure_ascii=ascii_only).encode("utf-8", "replace")
    preview = cut_json(whole, bytes_max)
    text = json.loads(preview.decode())
    assert len(preview) <= bytes_max
    text.encode()
    assert text.endswith("…")
    begins = data if isinstance(data, str) else whole.decode()
    assert begins.encode("utf-8", "replace").startswith(text[:-1].encode())


def test_an_object_is_cut_by_its_members() -> None:
    assert json.loads(cut_object(b'{"a":"' + b"x" * 99 + b'","b":1}', 20)) == {
        "a": "x" * 15 + "…",
        "b": 1,
    }
    assert cut_object(b"[" * 5_000, 20) == b"{}"


def parcel(size: int) -> Parcel:
    return Parcel(trace_id=bytes(16), size=size, end=End(1))


@pytest.mark.parametrize("policy", DropPolicy)
def test_giants_leave_a_quarter_of_the_buffer_to_the_others(policy: DropPolicy) -> None:
    buffer = Buffer(64 * MEBI, policy)
    assert [buffer.put(parcel(20 * MEBI)) for _ in range(4)] == [True, True, False, False]
    assert all(buffer.put(parcel(MEBI)) for _ in range(24))
    assert buffer.used_bytes == 64 * MEBI
    assert buffer.counts.dropped_full == buffer.counts.dropped_traces == 2
    assert not buffer.put(parcel(49 * MEBI))
    assert buffer.counts.dropped_oversize == 1


def test_a_giant_drives_nobody_out() -> None:
    buffer = Buffer(64 * MEBI, DropPolicy.OLDEST)
    small = [buffer.put(parcel(MEBI)) for _ in range(40)]
    assert not buffer.put(parcel(20 * MEBI))
    assert all(small)
    assert len(buffer) == 40


GIANT = """
import pathlib, re, sys
import spanferry

spanferry.enable(bootstrap_servers="127.0.0.1:1", exit_timeout_s=0, payload_bytes_max={limit})

def small(number):
    with spanferry.start_span("small") as span:
        span.set_inputs({{"n": number, "text": "x" * 10_000}})

value = "x" * 60_000_000
for number in range(300):
    small(number)
    if number % 100 == 50:
        with spanferry.start_span("giant") as span:
            span.set_inputs(value)
            with spanferry.start_span("child") as child:
                child.set_outputs(value)
account = spanferry.stats()
status = pathlib.Path("/proc/self/status").read_text()  # ru_maxrss would begin with the parent's
peak = int(re.search(r"VmHWM:\\s*(\\d+)", status)[1]) // 1024
print(account.traces, account.traces_dropped, account.payloads_truncated, account.buffered_bytes)
print(sorted(account.dropped.items()), peak, file=sys.stderr)
assert peak < 600, peak
"""


@pytest.mark.parametrize(
    ("limit", "dropped", "truncated"), [("None", 3, 6), ("1_000_000", 0, 6), ("0", 3, 0)]
)
def test_a_giant_among_small_traces_costs_them_nothing(
    limit: str, dropped: int, truncated: int
) -> None:
    """Kafka is away, so that all of them have to wait: of giants that are as large as the buffer, or
    cut to half of it, all but one at most are dropped whole."""
    program = GIANT.format(limit=limit)
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=100
    )
    traces, lost, cut, waiting = map(int, done.stdout.split())
    assert (traces, lost, cut) == (303, dropped, truncated), done.stderr
    assert waiting < 64 * MEBI
