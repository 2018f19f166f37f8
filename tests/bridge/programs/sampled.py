"""Some hundred traces through each way of MLflow's API, of which a part is kept."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import mlflow

from spanferry.settings import Settings
from spanferry.testing import capture

TRACES = 400
SPANS = 3


def below() -> None:
    with mlflow.start_span("step"), mlflow.start_span("deeper"):
        pass


def block() -> None:
    with mlflow.start_span("block"):
        below()


def no_context() -> None:
    root = mlflow.start_span_no_context("no context")
    child = mlflow.start_span_no_context("step", parent_span=root)
    mlflow.start_span_no_context("deeper", parent_span=child).end()
    child.end()
    root.end()


def decorated(**given: Any) -> Callable[[], None]:
    @mlflow.trace(**given)
    def call() -> None:
        below()

    return call


def awaited(**given: Any) -> Callable[[], None]:
    @mlflow.trace(**given)
    async def call() -> None:
        below()

    return lambda: asyncio.run(call())


def generated(**given: Any) -> Callable[[], None]:
    @mlflow.trace(**given)
    def call() -> Iterator[int]:
        below()
        yield 1

    return lambda: list(call())


def override_below_a_root() -> None:
    """Where the trace is decided already, an override changes nothing."""
    inner = decorated(sampling_ratio_override=0.5)
    with mlflow.start_span("root") as root:
        inner()
    assert root.trace_id


def main() -> None:
    options = json.loads(sys.argv[1])
    given = {"sampling_ratio_override": override} if (override := options.get("override")) else {}
    ways: dict[str, Callable[[], None]] = {
        "decorated": decorated(**given),
        "awaited": awaited(**given),
        "generated": generated(**given),
    }
    if not given:
        ways |= {"block": block, "no_context": no_context}
    if options.get("below"):
        ways = {"below a root": override_below_a_root}
    settings = Settings(bootstrap_servers="captured.invalid:9092", accelerate=options["accelerate"])
    account: dict[str, Any] = {}
    with capture(settings) as captured:
        if options.get("learnt"):
            for _ in range(3):
                block()
            from spanferry.process import PROCESS

            account["learnt"] = PROCESS.plain is not None
        for name, way in ways.items():
            captured.clear()
            for _ in range(TRACES):
                way()
            spans = [len(trace.spans) if trace.complete else 0 for trace in captured.traces]
            account[name] = {"kept": len(spans), "spans": sorted(set(spans))}
    print(json.dumps(account))


if __name__ == "__main__":
    main()
