"""A shop's assistant in MLflow's own API: two conversations, an error, feedback, an expectation.

`python -m tests.ui.programs sqlite:///… ARTIFACTS OUT` logs them as tests.sinks.native_programs does.
"""

import sys
import time
from pathlib import Path
from typing import Any

from tests.sinks.native_programs import main, usage

__all__ = ["ERROR", "FAILED", "QUESTION", "SESSION"]

SESSION = "chat-ada"
QUESTION = "Where is my order 4711?"
FAILED = "Cancel order 4711"
ERROR = "the warehouse does not answer"
_APART_S = 0.05
"""Between two traces, which are listed by the millisecond."""
_SYSTEM = {"role": "system", "content": "You are the assistant of a small shop."}


def _turn(question: str, answer: str, session: str, user: str) -> Any:
    def turn(mlflow: Any) -> dict[str, Any]:
        time.sleep(_APART_S)
        asked = {"messages": [_SYSTEM, {"role": "user", "content": question}]}
        with mlflow.start_span("assistant", span_type="AGENT") as agent:
            mlflow.update_current_trace(
                session_id=session, user=user, tags={"release": "2026.11"},
                client_request_id=f"request-{question[:8]}",
            )  # fmt: skip
            agent.set_inputs(asked)
            with mlflow.start_span("search_orders", span_type="RETRIEVER") as found:
                found.set_inputs({"query": question})
                found.set_outputs(
                    [
                        {
                            "page_content": "Order 4711: 2 lamps, sent Monday",
                            "metadata": {"doc_uri": "4711"},
                        }
                    ]
                )
            with mlflow.start_span("track_parcel", span_type="TOOL") as tool:
                tool.set_inputs({"parcel": "JD0140", "größe": "L"})
                time.sleep(0.004)
                tool.set_outputs({"state": "in transit", "stops": ["Köln", "東京"], "eta_days": 1})
            with mlflow.start_span("answer", span_type="CHAT_MODEL") as model:
                model.set_inputs({"model": "gpt-4o-mini", **asked})
                time.sleep(0.01)
                model.set_attribute("mlflow.chat.tokenUsage", usage(412, 58))
                model.set_attribute("mlflow.llm.model", "gpt-4o-mini")
                model.set_attribute("mlflow.llm.provider", "openai")
                model.set_outputs(_reply(answer))
            agent.set_outputs(_reply(answer))
            if question == QUESTION:
                _judge(mlflow, agent)
        return {}

    return turn


def _reply(text: str) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def _judge(mlflow: Any, span: Any) -> None:
    from mlflow.entities import AssessmentSource

    def log(name: str, value: Any, source: AssessmentSource, rationale: str) -> None:
        mlflow.log_feedback(
            trace_id=span.trace_id, name=name, value=value, source=source, rationale=rationale
        )

    log(
        "helpful",
        True,
        AssessmentSource("HUMAN", "ada@example.com"),
        "It knew where the parcel is.",
    )
    log(
        "groundedness",
        0.75,
        AssessmentSource("LLM_JUDGE", "judge-1"),
        "The day is not in the order.",
    )
    mlflow.log_expectation(trace_id=span.trace_id, name="expected_state", value="in transit")


def _fails(mlflow: Any) -> dict[str, Any]:
    time.sleep(_APART_S)
    try:
        with mlflow.start_span("assistant", span_type="AGENT") as agent:
            mlflow.update_current_trace(session_id="chat-bob", user="bob")
            agent.set_inputs({"messages": [_SYSTEM, {"role": "user", "content": FAILED}]})
            with mlflow.start_span("cancel_order", span_type="TOOL") as tool:
                tool.set_inputs({"order": 4711})
                raise TimeoutError(ERROR)
    except TimeoutError:
        pass
    return {}


PROGRAMS: dict[str, Any] = {
    "first": _turn("Which lamps do you have?", "Two: one of oak, one of steel.", SESSION, "ada"),
    "other": _turn("Do you ship to Japan?", "Yes, within five days.", "chat-bob", "bob"),
    "fails": _fails,
    "second": _turn(QUESTION, "It left on Monday and arrives tomorrow.", SESSION, "ada"),
}

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), PROGRAMS)
