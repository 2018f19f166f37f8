"""What an app can get wrong, all through MLflow's API; its own results must not show it."""

import threading
from collections.abc import Callable
from typing import Any

import mlflow
from mlflow.entities.trace_location import MlflowExperimentLocation

from tests.better_than_native.programs.shipping import answer, begin, leave, trace

LONG = "x" * 20_000
OPTIONS: dict[str, Any] = {}


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("repr")

    __str__ = __repr__


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def hostile_values() -> list[Any]:
    cycle: dict[str, Any] = {}
    cycle["self"] = cycle
    return [
        *(Hostile(), cycle, threading.Lock(), {1: 2, (1, 2): 3}, "\ud800", float("nan")),
        *(10**40, {1, 2}, b"bytes", object, lambda: 0, [Hostile()]),
    ]


def a_span_with(number: int, value: Any) -> str:
    with mlflow.start_span("root") as root:
        mlflow.update_current_trace(tags={"number": str(number)})
        root.set_inputs({"value": value})
        root.set_outputs(value)
        root.set_attribute("value", value)
    return "fine"


def hostile() -> list[Any]:
    values = enumerate(hostile_values())
    return [outcome(lambda n=number, v=value: a_span_with(n, v)) for number, value in values]


def processor() -> list[Any]:
    """A span processor of the user's that fails."""

    def fails(span: Any) -> None:
        raise RuntimeError("the user's processor")

    @mlflow.trace
    def app(question: str, number: int) -> str:
        mlflow.update_current_trace(tags={"number": str(number)})
        return question.upper()

    mlflow.tracing.configure(span_processors=[fails])
    return [outcome(lambda: app("a", 0)), outcome(lambda: app("b", 1))]


def lengths() -> list[Any]:
    """Texts that are longer than MLflow's columns."""

    def too_long(number: int, **given: dict[str, str]) -> str:
        with mlflow.start_span("root"):
            mlflow.update_current_trace(tags={"number": str(number)})
            mlflow.update_current_trace(**given)
        return "fine"

    return [
        outcome(lambda: too_long(0, metadata={"long": LONG})),
        outcome(lambda: too_long(1, tags={"long": LONG})),
        outcome(lambda: too_long(2, metadata={"k" * 300: "short"})),
        outcome(lambda: too_long(3, tags={"k" * 300: "short"})),
        outcome(lambda: trace(4)),
    ]


def no_experiment() -> list[Any]:
    """An experiment that does not exist, among traces of one that does."""
    done = [outcome(lambda: trace(0))]
    mlflow.tracing.set_destination(MlflowExperimentLocation(OPTIONS["bad"]))
    done += [outcome(lambda n=number: trace(n)) for number in range(1, 81)]
    mlflow.tracing.reset()
    done.append(outcome(lambda: trace(81)))
    return done


def one_trace() -> list[Any]:
    return [outcome(lambda: trace(0))]


CASES = {one.__name__: one for one in (hostile, processor, lengths, no_experiment, one_trace)}


def main() -> None:
    from json import loads
    from sys import argv

    if version := loads(argv[1]).get("version"):
        mlflow.__version__ = version
    options = begin()
    OPTIONS.update(options)
    before = ferried()
    outcomes = CASES[options["case"]]()
    kept = [one if isinstance(one, str) and len(one) < 200 else repr(one) for one in outcomes]
    answer(outcomes=kept, ferried=ferried() - before)
    if options.get("topic"):
        import spanferry

        assert spanferry.flush(100)
    if options.get("waits", True):
        mlflow.flush_trace_async_logging()
    leave()


def ferried() -> int:
    import spanferry

    return spanferry.stats().traces


if __name__ == "__main__":
    main()
