"""The bridge taken out and put back, and everything by which MLflow makes its tracing anew."""

import sys
from collections.abc import Callable
from typing import Any

import mlflow
from mlflow import start_span as imported_by_name
from mlflow.entities.trace_location import MlflowExperimentLocation
from mlflow.tracing.client import TracingClient
from mlflow.tracing.trace_manager import InMemoryTraceManager

import spanferry
from tests.better_than_native.programs.shipping import answer, begin, leave, trace

this_module = sys.modules[__name__]


def held() -> dict[str, Any]:
    """What every module holds of MLflow's functions, and this one."""
    modules = [one for name, one in sys.modules.items() if name.startswith("mlflow")]
    owners = [*modules, TracingClient, this_module]
    return {
        f"{owner.__name__}.{name}": value
        for owner in owners
        for name, value in list(vars(owner).items())
        if callable(value) and not name.startswith("__")
    }


def changed(before: dict[str, Any]) -> list[str]:
    now = held()
    return sorted(name for name, value in before.items() if now.get(name) is not value)


def remake(experiment: str) -> dict[str, Callable[[], object]]:
    """What may happen between two spans."""
    other = mlflow.set_experiment(experiment).experiment_id
    uri = mlflow.get_tracking_uri()
    return {
        "set_experiment": lambda: mlflow.set_experiment(experiment),
        "set_tracking_uri": lambda: mlflow.set_tracking_uri(uri),
        "disable, enable": lambda: (mlflow.tracing.disable(), mlflow.tracing.enable()),
        "enable": mlflow.tracing.enable,
        "reset": mlflow.tracing.reset,
        "set_destination": lambda: mlflow.tracing.set_destination(MlflowExperimentLocation(other)),
    }


def main() -> None:
    options = begin()
    spanferry.disable()  # MLflow's modules are all loaded from here on
    again = {name: options[name] for name in ("bootstrap_servers", "topic", "accelerate")}
    trace(0)
    mlflow.flush_trace_async_logging()
    mlflows = held()
    manager = type(InMemoryTraceManager.get_instance()).__name__

    spanferry.enable(**again)
    taken = changed(mlflows)
    with imported_by_name("root"):
        mlflow.update_current_trace(tags={"number": "1"})
    ferried = {"enabled": spanferry.stats().traces}
    spanferry.disable()
    left = changed(mlflows)
    left += [manager] if type(InMemoryTraceManager.get_instance()).__name__ != manager else []
    trace(2)
    mlflow.flush_trace_async_logging()

    spanferry.enable(**again)
    number = 3
    for name, action in remake(options["experiment"]).items():
        action()
        before = spanferry.stats().traces
        trace(number)
        ferried[name] = spanferry.stats().traces - before
        number += 1
    assert spanferry.flush(100)
    answer(taken=taken, left=left, ferried=ferried, made=number)
    leave()


if __name__ == "__main__":
    main()
