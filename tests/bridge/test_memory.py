"""What MLflow's API has handed over counts in the buffer, and nothing else is kept for long."""

from collections.abc import Callable

import mlflow
import pytest
from mlflow.entities import Feedback
from mlflow.entities.model_registry import PromptVersion
from mlflow.tracing.trace_manager import InMemoryTraceManager

from spanferry.bridge import recent
from spanferry.testing import capture

LONG = "x" * 1_000_000


def name_and_type() -> None:
    with mlflow.start_span(LONG, span_type=LONG):
        pass


def request_id_and_session() -> None:
    with mlflow.start_span("root"):
        mlflow.update_current_trace(client_request_id=LONG, session_id=LONG)


def what_mlflows_code_sets() -> None:
    manager = InMemoryTraceManager.get_instance()
    with mlflow.start_span("root") as root, manager.get_trace(root.trace_id) as trace:
        trace.info.client_request_id = LONG
        trace.info.request_preview = LONG


def what_mlflows_code_puts_into_its_dicts() -> None:
    manager = InMemoryTraceManager.get_instance()
    with mlflow.start_span("root") as root, manager.get_trace(root.trace_id) as trace:
        trace.info.tags["t"] = LONG
        trace.info.trace_metadata[LONG] = 5


def prompts() -> None:
    manager = InMemoryTraceManager.get_instance()
    with mlflow.start_span("root") as root, manager.get_trace(root.trace_id) as trace:
        trace.prompts += [PromptVersion(LONG, 1, ""), PromptVersion(LONG, 2, "")]


def the_contexts_tags() -> None:
    with mlflow.tracing.context(tags={"t": LONG}, metadata={"m": LONG}), mlflow.start_span("root"):
        pass


def tags_behind_it() -> None:
    mlflow.set_trace_tag("tr-" + "1" * 32, "t", LONG)
    mlflow.delete_trace_tag("tr-" + "1" * 32, LONG)


def feedback() -> None:
    mlflow.log_feedback(trace_id="tr-" + "1" * 32, name=LONG, value=1, metadata={"m": LONG})


@pytest.mark.parametrize(
    "record",
    [
        name_and_type,
        request_id_and_session,
        what_mlflows_code_sets,
        what_mlflows_code_puts_into_its_dicts,
        prompts,
        the_contexts_tags,
        tags_behind_it,
        feedback,
    ],
)
def test_every_text_of_the_apps_counts(record: Callable[[], None], captured: capture) -> None:
    record()
    counted = sum(parcel.size for parcel in captured.parcels)
    assert 2_000_000 < counted < 5_000_000


def test_of_what_was_sent_lately_no_more_than_some_megabytes_are_kept(light: capture) -> None:
    recent._kept.clear()
    recent._kept.bytes = 0
    trace_id = "tr-" + "1" * 32
    sent = [
        mlflow.log_feedback(trace_id=trace_id, name=f"n{number}", value=LONG) for number in range(9)
    ]
    for _ in range(9):
        recent.remember(sent[-1], len(LONG))  # the same once more
    known = [recent.recalled(trace_id, one.assessment_id) for one in sent]
    assert [one is not None for one in known] == [False] * 5 + [True] * 4
    for one in sent:
        recent.forget(one.assessment_id)
    assert recent._kept.bytes == 0
    assert isinstance(known[-1], Feedback)
