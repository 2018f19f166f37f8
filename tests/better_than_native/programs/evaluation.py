"""mlflow.genai.evaluate with a traced function and a scorer in Python, between two requests."""

from typing import Any

import mlflow
from mlflow.genai.scorers import scorer

from tests.better_than_native.programs.shipping import answer, begin, leave, trace

QUESTIONS = ["a", "b", "c"]


@mlflow.trace(span_type="LLM")
def model(question: str) -> str:
    return question.upper()


@mlflow.trace
def predict(question: str) -> str:
    return model(question) if question != "c" else "wrong"


@scorer
def exact(outputs: Any, expectations: dict[str, Any]) -> bool:
    return outputs == expectations["answer"]


def main() -> None:
    begin()
    trace(0)
    data = [
        {"inputs": {"question": one}, "expectations": {"answer": one.upper()}} for one in QUESTIONS
    ]
    result = mlflow.genai.evaluate(data=data, predict_fn=predict, scorers=[exact])
    stored = mlflow.search_traces(run_id=result.run_id, return_type="list")
    trace(1)
    answer(
        metrics=result.metrics,
        rows=len(result.result_df),
        traces=sorted(
            (
                one.data.spans[0].inputs["question"],
                sorted((span.name, span.span_type) for span in one.data.spans),
                sorted((each.name, str(each.value)) for each in one.info.assessments),
                one.info.state.value,
            )
            for one in stored
        ),
    )
    mlflow.flush_trace_async_logging()
    leave()


if __name__ == "__main__":
    main()
