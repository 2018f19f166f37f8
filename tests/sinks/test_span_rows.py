"""Rows that are made without MLflow's entities are those that MLflow makes of them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.entities import Trace, TraceData

from spanferry_schemas import Span, SpanKind, StatusCode, TracePart
from spanferry_worker.services.mlflow_build import EntityBuilder
from spanferry_worker.services.mlflow_span_rows import SPAN_COLUMNS, SpanRows
from spanferry_worker.services.mlflow_sql import SQL_LIMITS
from spanferry_worker.services.mlflow_text import Texts
from spanferry_worker.services.mlflow_trace_rows import info_length
from spanferry_worker.services.mlflow_witness import export_request

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
VALUES = JSON.map(lambda value: json.dumps(value).encode()) | JSON.map(
    lambda value: json.dumps(json.dumps(value)).encode()
)
KEYS = st.sampled_from(
    ["mlflow.spanInputs", "mlflow.spanOutputs", "mlflow.x", "temperature", "model", "user.id",
     "mlflow.llm.model", "input.value", "gen_ai.request.model", "lk.x", "\u00e9"]
)  # fmt: skip
BUILDER = EntityBuilder(Texts(SQL_LIMITS))
NAMED = f"tr-{bytes(16).hex()}"


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(KEYS, VALUES, max_size=4),
    st.sampled_from(["LLM", "", "\u00e9"]),
    st.text(),
    st.sampled_from(SpanKind),
)
def test_a_row_is_that_of_mlflows_translation(
    attributes: dict[str, bytes], span_type: str, name: str, kind: SpanKind
) -> None:
    rows = SpanRows(BUILDER.spans)
    given_span = Span(
        b"12345678", None, name, span_type, 5, 7, StatusCode.OK, "", dict(attributes), [], [], kind
    )
    short = rows.row(bytes(16), NAMED, 3, given_span)
    long = rows._translated(bytes(16), NAMED, 3, given_span)
    named = dict(zip(SPAN_COLUMNS, short.values, strict=True))
    assert named == dict(zip(SPAN_COLUMNS, long.values, strict=True))
    assert (short.size, short.given, short.stored) == (long.size, long.given, long.stored)


@pytest.mark.parametrize("kind", SpanKind)
@pytest.mark.parametrize("value", [b"1", b"1" * 30])
def test_a_kind_goes_over_otlp(kind: SpanKind, value: bytes) -> None:
    """Also where MLflow's own OTLP has none, or cannot have the span."""
    made = Span(bytes(8), None, "GET", "", 5, 7, attributes={"x": value}, kind=kind)
    (resource,) = export_request([BUILDER.spans.entity(bytes(16), made)]).resource_spans
    assert resource.scope_spans[0].spans[0].kind == (kind or SpanKind.INTERNAL)


def test_dialects_are_known_by_their_words() -> None:
    rows = SpanRows(BUILDER.spans)
    concern = rows._concerns_translators
    for key in (
        "gen_ai.request.model", "llm.token_count.prompt", "input.value", "traceloop.span.kind",
        "lk.user_input", "ai.prompt", "openinference.span.kind", "gcp.vertex.agent.llm_request",
        "langfuse.observation.input", "lmnr.span.type",
    ):  # fmt: skip
        assert concern(key), key
    for key in ("temperature", "tenant", "mlflow.spanInputs", "top_p", "retries"):
        assert not concern(key), key


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 4_000_000_000_000),
    st.none() | st.integers(0, 10**9),
    st.none() | st.text(max_size=20),
    st.dictionaries(st.text(max_size=300), st.text(max_size=300), max_size=3),
)
def test_the_length_of_a_record_is_mlflows(
    request_time: int, duration: int | None, preview: str | None, texts: dict[str, str]
) -> None:
    clean = {BUILDER._texts.clean(k): BUILDER._texts.clean(v) for k, v in texts.items()}
    info = BUILDER.given_info("tr-1", TracePart(tags=clean, metadata=clean), "7", None)
    info.request_time, info.execution_duration = request_time, duration
    info.request_preview = None if preview is None else BUILDER._texts.clean(preview)
    assert info_length(info) == len(Trace(info, TraceData(spans=[])).to_json())
