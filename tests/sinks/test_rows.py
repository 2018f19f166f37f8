"""Rows of many traces at once, and what is known of a text without decoding it."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.tracing.otel import translation
from mlflow.tracing.utils import truncation

from spanferry_schemas import trace_id_text
from spanferry_worker.services import mlflow_private as private
from spanferry_worker.services import mlflow_span_rows, mlflow_trace_rows
from spanferry_worker.services.mlflow_build import EntityBuilder
from spanferry_worker.services.mlflow_sql import SQL_LIMITS
from spanferry_worker.services.mlflow_text import Texts, ascii_length
from spanferry_worker.services.mlflow_trace_rows import NewTrace, RowBuilder
from tests.sinks.stores import five_spans, ids, span, trace

pytestmark = pytest.mark.mlflow


def test_rows_of_many_are_those_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """In portions, of which one has a trace that MLflow's own code must write."""
    monkeypatch.setattr(mlflow_trace_rows, "PORTION_TRACES", 3)
    tagged = span(ids(1)[0], attributes={"mlflow.traceTag.team": b'"search"'})
    made = [five_spans() for _ in range(7)]
    made.insert(4, trace([tagged]))
    new = [NewTrace(trace_id_text(one.trace_id or b""), one, "7", None) for one in made]
    builder = RowBuilder(EntityBuilder(Texts(SQL_LIMITS)))
    together = builder.rows(new)
    assert together == [rows for one in new for rows in builder.rows([one])]
    assert [rows.trace_id for rows in together] == [one.trace_id for one in new[:4] + new[5:]]


MESSAGE = {"role": "user", "content": "hello"}
LONG = "y" * 1_200


@pytest.mark.parametrize(
    "value",
    [
        {"messages": [MESSAGE, {"role": "assistant", "content": LONG}]}, {"choices": [{"message": MESSAGE}]},
        {"input": [MESSAGE]}, {"output": [MESSAGE]}, {"request": {"input": [MESSAGE]}}, [MESSAGE],
        {"messages": "none"}, {"x": LONG}, {"x": 1}, LONG, "", [LONG], None, 0.5,
    ],
)  # fmt: skip
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_a_preview_is_mlflows(value: Any, role: str) -> None:
    text = json.dumps(value)
    mlflows: Any = truncation
    assert private.truncated_preview(text, role) == mlflows._get_truncated_preview(text, role)


def test_a_preview_s_messages_may_be_written_with_escapes() -> None:
    text = '{"\\u006dessages": [{"role": "user", "content": "hello"}]}'
    assert private.truncated_preview(text, "user") == "hello"


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_a_text_in_another_is_as_pythons_codec_writes_it(text: str) -> None:
    texts = Texts(SQL_LIMITS)
    written = texts.written(json.dumps(text, ensure_ascii=False).encode())
    inner = json.dumps(texts.clean(text).replace("\0", "\ufffd"), ensure_ascii=False)
    assert written.text == inner
    assert b'"%b"' % written.escaped == json.dumps(inner, ensure_ascii=False).encode()
    assert len(written.escaped) + written.growth + 2 == len(json.dumps(inner))
    assert ascii_length(inner.encode()) == len(json.dumps(text)) or "\0" in text


@pytest.mark.parametrize("before", ["", " ", "\n\t "])
def test_a_model_is_found_as_mlflow_finds_it(before: str) -> None:
    """In inputs that were JSON as a text, of which white space stays."""
    attributes = {"mlflow.spanInputs": before + '{"model": "gpt-4o"}'}
    found = mlflow_span_rows._model_of(attributes)
    assert found == translation._get_model_name(attributes) == "gpt-4o"
