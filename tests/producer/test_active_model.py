"""The active model by name, with the parameters that it is made with."""

from collections.abc import Callable
from typing import Any

import pytest

import spanferry
from spanferry.testing import capture
from tests.producer.hostile import Hostile


def one_trace(captured: capture) -> tuple[str | None, dict[str, str]]:
    captured.clear()
    with spanferry.start_span("root"):
        pass
    (trace,) = captured.traces
    return trace.part.active_model, trace.part.model_params


def test_params_go_with_the_name_as_text(captured: capture) -> None:
    given = {"temperature": 0.2, "prompt": "v3", "tools": ["search"]}
    model = spanferry.set_active_model(name="agent", params=given)
    given["prompt"] = "changed later"
    stored = {"temperature": "0.2", "prompt": "v3", "tools": "['search']"}
    assert model.params == stored
    assert one_trace(captured) == ("agent", stored)


def test_the_block_ends_the_params_too(captured: capture) -> None:
    spanferry.set_active_model(name="outer", params={"a": 1})
    with spanferry.set_active_model(name="inner"):
        assert one_trace(captured) == ("inner", {})
    assert one_trace(captured) == ("outer", {"a": "1"})


def test_cleared_it_is_gone_whatever_the_environment_says(
    captured: capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ACTIVE_MODEL_ID", "m-env")
    spanferry.set_active_model(name="agent", params={"a": 1})
    spanferry.clear_active_model()
    assert one_trace(captured) == (None, {})
    assert "mlflow.modelId" not in captured.traces[0].metadata
    spanferry.set_active_model(name="again")
    assert one_trace(captured) == ("again", {})


def test_a_model_by_id_has_no_params_of_ours(
    captured: capture, caplog: pytest.LogCaptureFixture
) -> None:
    spanferry.set_active_model(name="agent", params={"a": 1})
    with spanferry.start_span("root"):
        spanferry.update_current_trace(model_id="m-1")
    (trace,) = captured.traces
    assert (trace.part.active_model, trace.part.model_params) == (None, {})
    spanferry.set_active_model(model_id="m-2", params={"a": 1})
    assert one_trace(captured) == (None, {})
    assert "with a model_id they are left out" in caplog.text


@pytest.mark.parametrize("name", ["agent-1.4", "team/agent", "agent:1", "100%", "'agent'"])
def test_a_name_that_mlflow_refuses_is_said_at_once(
    name: str, captured: capture, caplog: pytest.LogCaptureFixture
) -> None:
    spanferry.set_active_model(name=name)
    assert "MLflow refuses a name with one of" in caplog.text
    assert "git_version" in caplog.text


def test_an_empty_name_changes_nothing(captured: capture, caplog: pytest.LogCaptureFixture) -> None:
    spanferry.set_active_model(name="before")
    spanferry.set_active_model(name="")
    assert one_trace(captured) == ("before", {})
    assert "needs a name" in caplog.text


@pytest.mark.parametrize(
    "make",
    [Hostile, lambda: {Hostile(): Hostile()}, lambda: 3, lambda: ["a"]],
    ids=["hostile", "hostile inside", "number", "list"],
)
def test_no_params_raise(make: Callable[[], Any], captured: capture) -> None:
    spanferry.set_active_model(name="agent", params=make())
    assert one_trace(captured)[0] == "agent"


def test_a_parameter_keeps_the_value_that_was_given_first(
    captured: capture, caplog: pytest.LogCaptureFixture
) -> None:
    spanferry.set_active_model(name="kept", params={"temperature": 0.2})
    again = spanferry.set_active_model(name="kept", params={"temperature": 0.9, "top_k": 5})
    assert again.params == {"temperature": "0.2", "top_k": "5"}
    other = spanferry.set_active_model(name="other", params={"temperature": 0.9})
    assert other.params == {"temperature": "0.9"}
    assert len([line for line in caplog.messages if "Give the new version a name" in line]) == 1
