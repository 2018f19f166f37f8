"""An app in several versions, one after the other.

`python -m tests.end_to_end.versions BOOTSTRAP TOPIC EXPERIMENT` sends one trace of each; a tag tells them
apart.
"""

import sys

import spanferry

__all__ = ["PARAMS"]

PARAMS = {"temperature": 0.2, "prompt": "v3"}


@spanferry.trace(span_type="AGENT")
def answer(question: str) -> str:
    """One trace."""
    spanferry.update_current_trace(tags={"asked": question})
    return f"answer to {question}"


def main(bootstrap: str, topic: str, experiment: str) -> None:
    """By environment, by name, within a block, by name again, by id."""
    spanferry.enable(bootstrap_servers=bootstrap, topic=topic, experiment=experiment)
    answer("environment")  # MLFLOW_ACTIVE_MODEL_ID
    spanferry.set_active_model(name="agent-1", params=PARAMS)
    answer("first")
    with spanferry.set_active_model(name="agent-2"):
        answer("second")
    answer("first again")
    spanferry.set_active_model(name="agent-1", params={"temperature": 0.9, "top_k": 5})
    answer("first, other params")
    spanferry.set_active_model(name="agent.refused")
    answer("refused")
    with spanferry.set_active_model(model_id="m-by-id"):
        answer("by id")
    assert spanferry.flush(100)


if __name__ == "__main__":
    main(*sys.argv[1:])
