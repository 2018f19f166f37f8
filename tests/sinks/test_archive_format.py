"""`traces.pb`: MLflow reads the spans from it that it reads from the rows, or it is not written."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.entities import Span
from mlflow.tracing.otel.otel_archival import spans_to_traces_data_pb, traces_data_pb_to_spans
from mlflow.tracing.otel.translation import translate_loaded_span

from spanferry_worker.services.mlflow_archive_format import InexactError, payload, remainder

TRACE_ID = "tr-" + "0" * 31 + "1"
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


def content(value: Any, **fields: Any) -> str:
    """A row's column, with this value among its attributes."""
    plain = {
        "trace_id": "AAAAAAAAAAAAAAAAAAAAAQ==",
        "span_id": "AAAAAAAAAAE=",
        "parent_span_id": None,
        "name": "n",
        "start_time_unix_nano": 1,
        "end_time_unix_nano": 2,
        "events": [],
        "status": {"code": "STATUS_CODE_OK", "message": ""},
        "attributes": {
            "mlflow.traceRequestId": json.dumps(TRACE_ID),
            "mlflow.spanType": '"LLM"',
            "x": json.dumps(value, ensure_ascii=False),
        },
        "links": [],
    }
    return json.dumps({**plain, **fields})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(VALUES)
def test_every_value_comes_back(value: Any) -> None:
    text = content(value)
    native = Span.from_dict(translate_loaded_span(json.loads(text)))
    data = payload([text])
    (found,) = traces_data_pb_to_spans(data)
    assert found.to_dict() == native.to_dict()
    assert found.attributes == native.attributes
    # MLflow's own way there gives the same
    assert (
        traces_data_pb_to_spans(spans_to_traces_data_pb([native]))[0].to_dict() == found.to_dict()
    )


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_as_deep_as_readers_go() -> None:
    levels = max(n for n in range(1, 60) if _fits(n))
    assert 20 < levels < 60
    (found,) = traces_data_pb_to_spans(payload([content(nested(levels))]))
    assert found.attributes["x"] == nested(levels)


def _fits(levels: int) -> bool:
    try:
        payload([content(nested(levels))])
    except InexactError:
        return False
    return True


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (content(2**63), "64 bits"),
        (content([{"a": -(2**63) - 1}]), "64 bits"),
        (content(nested(200)), "nested deeper"),
        (content(1, end_time_unix_nano=None), "has not ended"),
        (content(1).replace('"x": "1"', '"x": "{broken"'), "not as MLflow stores"),
        (content(1).replace('"x": "1"', '"x": 1'), "not as MLflow stores"),
        (content(1).replace('"x": "1"', r'"x": "\"\\ud800\""'), "not as MLflow stores"),
        (content(1).replace("mlflow.traceRequestId", "y"), "not as MLflow stores"),
        ("", "not as MLflow stores"),
    ],
)
def test_what_would_not_come_back_is_refused(text: str, said: str) -> None:
    with pytest.raises(InexactError, match=said):
        payload([content("other"), text])


def test_a_trace_without_spans_is_refused() -> None:
    with pytest.raises(InexactError, match="no spans"):
        payload([])


def test_what_stays_of_a_row() -> None:
    events = [{"name": "e", "time_unix_nano": 1, "attributes": {"a": "b" * 5_000}}]
    long = content({"first": "\u20ac" * 5_000}, events=events)
    left = json.loads(remainder(long))
    assert left["events"] == []
    assert left["attributes"].pop("x").startswith(r'"{\"first\": \"' + "\u20ac" * 100)
    whole = json.loads(long)
    del whole["attributes"]["x"]
    assert left == {**whole, "events": []}
    assert len(remainder(long)) < 2_000
    assert remainder(content("short")) == json.dumps(json.loads(content("short")))
