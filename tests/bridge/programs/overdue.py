"""A trace that takes longer than MLFLOW_TRACE_TIMEOUT_SECONDS, and one that does not."""

import json
import sys
import threading
import time
from collections.abc import Callable

import mlflow

from spanferry.settings import Settings
from spanferry.testing import capture

WAIT_S = 90


def looking() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name == "spanferry-timeouts"]


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)


def main() -> None:
    options = json.loads(sys.argv[1])
    settings = Settings(bootstrap_servers="captured.invalid:9092", accelerate=options["accelerate"])
    with capture(settings) as captured:
        with mlflow.start_span("in time"):
            pass
        with mlflow.start_span("stuck") as root, mlflow.start_span("step"):
            wait_until(lambda: len(captured.traces) == 2)
            meanwhile = looking()
        root.set_attribute("late", 1)
        with mlflow.start_span("afterwards"):
            pass
    wait_until(lambda: not looking())
    account = {
        "looking": meanwhile,
        "left": looking(),
        "traces": {
            trace.name: [trace.state, sorted(span.name for span in trace.spans)]
            for trace in captured.traces
        },
        "messages": [
            event.attributes["exception.message"]
            for trace in captured.traces
            for event in trace.root.events
        ],
        "ends": sum(parcel.end is not None for parcel in captured.parcels),
    }
    print(json.dumps(account))


if __name__ == "__main__":
    main()
