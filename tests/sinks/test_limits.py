"""Nothing that an app can send is too long, too deep or too odd to be stored."""

import json
from typing import Any

import pytest

from spanferry_schemas import SpanEvent, StatusCode, TracePart
from spanferry_worker.services.mlflow_http import HTTP_LIMITS
from spanferry_worker.services.mlflow_sql import SQL_LIMITS
from spanferry_worker.services.mlflow_text import TOO_DEEP, Texts
from tests.sinks.conftest import OpenSink, Place, everywhere
from tests.sinks.stores import dump, ids, span, trace

pytestmark = pytest.mark.mlflow

NUL = "a\0b"
USAGE = "mlflow.chat.tokenUsage"
SURROGATE = b'"\\ud800 alone"'


@everywhere
async def test_everything_too_long(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    long = "ü" * 20_000
    part = TracePart(
        client_request_id=long,
        request_preview=long,
        response_preview=long,
        tags={long: long, "mlflow.traceName": long},
        metadata={long: long, "mlflow.trace.session": long, "mlflow.trace.user": long},
    )
    text = json.dumps(long).encode()
    attributes = dict.fromkeys(
        ("session.id", "user.id", "gen_ai.conversation.id", "mlflow.llm.model", long), text
    )
    one = trace(
        [span(ids(1)[0], name=long, span_type=long, attributes=attributes)],
        part=part,
    )
    await sink.write([one])
    info = place.info(one.trace_id or b"")
    assert info.client_request_id == "ü" * 50
    assert info.request_preview == "ü" * 997 + "..."
    assert info.trace_metadata["mlflow.trace.session"] == "ü" * 250
    assert info.tags["mlflow.traceName"] == "ü" * 4096
    limits = HTTP_LIMITS if place.kind == "server" else SQL_LIMITS
    assert info.tags["ü" * 250] == "ü" * limits.tag_value_chars
    assert info.trace_metadata["ü" * 250] == "ü" * limits.metadata_value_chars
    (stored,) = place.trace(one.trace_id or b"").data.spans
    assert stored.name == long
    assert stored.span_type == "ü" * 500

    before = dump(place.database)
    await sink.write([one])
    assert dump(place.database) == before


OWNERS = ("session.id", "gen_ai.conversation.id", "user.id")
LONG_VALUES: list[Any] = [
    ["u" * 90] * 100,
    {"ü": "u" * 9_000},
    10**300,
    [1, {"a": ["ü" * 250]}],
]


@everywhere
async def test_sessions_and_users_that_are_no_text(
    place: Place, opened: OpenSink, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is stored, as a text that is cut as any other."""
    sink = await opened(place.uri)
    cases = [(key, value) for key in OWNERS for value in LONG_VALUES]
    batch = [
        trace([span(ids(1)[0], attributes={key: json.dumps(value).encode()})])
        for key, value in cases
    ]
    await sink.write(batch)
    for one, (key, value) in zip(batch, cases, strict=True):
        text = json.dumps(value, ensure_ascii=False)[:250]
        found = place.trace(one.trace_id or b"")
        (stored,) = found.data.spans
        name = "mlflow.trace.user" if key == "user.id" else "mlflow.trace.session"
        assert found.info.trace_metadata[name] == text, key
        assert str(stored.attributes[key]) == text, key
    for key in OWNERS:
        assert caplog.text.count(f"a span attribute {key} of") == 1
    short = trace([span(ids(1)[0], attributes={"session.id": b"[1, 2]"})])
    await sink.write([short])
    (stored,) = place.trace(short.trace_id or b"").data.spans
    assert stored.attributes["session.id"] == [1, 2]

    before = dump(place.database)
    await sink.write([*batch, short])
    assert dump(place.database) == before


@everywhere
async def test_nul_and_lone_surrogates_everywhere(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    text = json.dumps({"messages": [{"role": "user", "content": NUL}], NUL: [NUL]}).encode()
    one = trace(
        [
            span(
                ids(1)[0],
                name=NUL,
                span_type=NUL,
                status=StatusCode.ERROR,
                status_message=NUL,
                attributes={
                    "mlflow.spanInputs": text,
                    "mlflow.spanOutputs": SURROGATE,
                    "mlflow.llm.model": b'"\\u0000"',
                    "session.id": SURROGATE,
                    "user.id": b'"u\\u0000"',
                    NUL: b"1",
                    "escaped": b'"not \\\\u0000 at all"',
                    "pair": b'"\\ud83c\\udf89"',
                },
                events=[SpanEvent(NUL, 1, b'{"k\\u0000": "\\ud800"}')],
            )
        ],
        part=TracePart(tags={NUL: NUL}, metadata={NUL: NUL}, client_request_id=NUL),
    )
    await sink.write([one])
    found = place.trace(one.trace_id or b"")
    (stored,) = found.data.spans
    assert stored.inputs["messages"][0]["content"] == "a\ufffdb"
    assert stored.outputs == "\ufffd alone"
    assert stored.attributes["escaped"] == "not \\u0000 at all"
    assert stored.attributes["pair"] == "🎉"
    assert found.info.tags["a\ufffdb"] == "a\ufffdb"
    assert found.info.request_preview == "a\ufffdb"
    assert (stored.name, stored.status.description) == ("a\ufffdb", "a\ufffdb")


NOT_QUITE_JSON: list[tuple[bytes, Any]] = [
    (b"", ""),
    (b"{", "{"),
    (b"\xff\xfe", "\ufffd\ufffd"),
    (b"{'a': 1}", "{'a': 1}"),
    (b'{"a":1}{"b":2}', '{"a":1}{"b":2}'),
    (b'"\xc3\xa9"', "é"),
    (b'"bad utf-8 \xff"', "bad utf-8 \ufffd"),
    (b"123456789012345678901234567890", 123456789012345678901234567890),
    (b"-0.0", -0.0),
    (b" [ 1 ,2 ] ", [1, 2]),
    (b"null", None),
]


async def test_attributes_that_are_not_json_are_kept_as_their_text(
    place: Place, opened: OpenSink
) -> None:
    sink = await opened(place.uri)
    batch = [
        trace([span(ids(1)[0], attributes={"mlflow.spanInputs": raw, "x": raw})])
        for raw, _ in NOT_QUITE_JSON
    ]
    await sink.write(batch)
    for one, (raw, value) in zip(batch, NOT_QUITE_JSON, strict=True):
        (stored,) = place.trace(one.trace_id or b"").data.spans
        if place.kind == "server" and isinstance(value, int):
            value = str(value)  # noqa: PLW2901 - OTLP has 64 bits
        assert stored.attributes["x"] == value, raw
        assert stored.inputs == value, raw


DEPTHS = [10, 25, 26, 100, 499, 700, 5_000, 100_000]


async def test_nesting(place: Place, opened: OpenSink) -> None:
    """Deeper than MLflow can read it is kept as text."""
    sink = await opened(place.uri)
    raws = [b'{"a":' * depth + b"1" + b"}" * depth for depth in DEPTHS]
    batch = [trace([span(ids(1)[0], attributes={"mlflow.spanInputs": raw})]) for raw in raws]
    await sink.write(batch)
    limits = HTTP_LIMITS if place.kind == "server" else SQL_LIMITS
    for one, depth, raw in zip(batch, DEPTHS, raws, strict=True):
        (stored,) = place.trace(one.trace_id or b"").data.spans
        value = stored.inputs
        if depth > limits.json_depth:
            assert value == (TOO_DEEP + raw).decode(), depth
            continue
        for _ in range(depth):
            value = value["a"]
        assert value == 1


async def test_strings_that_look_like_deep_json(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    texts = ["[" * 5_000, "{" * 5_000, "[" * 5_000 + "]" * 5_000, '[{"a":1}]' * 3_000]
    attributes = {f"a{i}": json.dumps(text).encode() for i, text in enumerate(texts)}
    one = trace([span(ids(1)[0], attributes=attributes)])
    await sink.write([one])
    (stored,) = place.trace(one.trace_id or b"").data.spans
    for index, text in enumerate(texts):
        assert text in str(stored.attributes[f"a{index}"])


async def test_token_usage_that_is_no_usage(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    root, good, *children = ids(6)
    odd = [b'"many"', b"[1]", b'{"input_tokens":"x"}', b"null"]
    spans = [
        span(child, root, attributes={USAGE: text})
        for child, text in zip(children, odd, strict=True)
    ]
    usage = b'{"input_tokens":1,"output_tokens":2,"total_tokens":3}'
    one = trace([span(root), *spans, span(good, root, attributes={USAGE: usage})])
    await sink.write([one])
    found = place.trace(one.trace_id or b"")
    assert json.loads(found.info.trace_metadata["mlflow.trace.tokenUsage"]) == json.loads(usage)
    kept = [one.attributes[USAGE] for one in found.data.spans if USAGE in one.attributes]
    assert len(kept) == 5
    assert 'not numbers by name: {"input_tokens": "x"}' in kept


def test_brackets_in_strings_do_not_count_as_depth_unless_they_nest() -> None:
    texts = Texts(SQL_LIMITS)
    value = json.dumps(["[" * 5_000, "}" * 5_000, '"' * 100])
    assert texts.json(value.encode()) == value


def test_a_cut_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    texts = Texts(SQL_LIMITS)
    for _ in range(3):
        assert texts.cut("value of tag t", "x" * 10, 5) == "xxxxx"
    assert len(caplog.records) == 1
    assert "value of tag t" in caplog.text
