"""What the programs share: they ship their traces natively or through spanferry, and account.

`python -m tests.better_than_native.programs.NAME '{"tracking_uri": …}'` runs one; the last line that
it prints is its account, as JSON. The same lines of the program run both ways.
"""

import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import mlflow

__all__ = ["answer", "begin", "bounded", "leave", "trace"]


def begin() -> dict[str, Any]:
    """Set MLflow up as an app does, with spanferry where the test says so; the test's options."""
    options: dict[str, Any] = json.loads(sys.argv[1])
    mlflow.set_tracking_uri(options["tracking_uri"])
    if options.get("topic"):
        import spanferry

        spanferry.enable(
            bootstrap_servers=options["bootstrap_servers"],
            topic=options["topic"],
            accelerate=options.get("accelerate", True),
            experiment=options["experiment"],
        )
    if options.get("set_experiment", True):
        mlflow.set_experiment(options["experiment"])
    return options


def trace(number: int, *, children: int = 0, payload: str = "") -> str:
    """Make trace N through MLflow's API: its id."""
    with mlflow.start_span("root", span_type="AGENT") as root:
        mlflow.update_current_trace(tags={"number": str(number)})
        root.set_inputs({"question": payload})
        for child in range(children):
            with mlflow.start_span(f"step {child}", span_type="TOOL") as step:
                step.set_inputs({"question": payload})
                step.set_outputs({"answer": payload})
        root.set_outputs({"answer": payload})
    return root.trace_id


def bounded(call: Callable[[], object], seconds: float) -> bool:
    """Whether `call` came back in time; it may hang for ever."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def answer(**account: object) -> None:
    """Print the account."""
    print(json.dumps(account, default=str), flush=True)


def leave(code: int = 0) -> NoReturn:
    """End at once, as a process does whose time is over: no atexit, no more waiting."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
