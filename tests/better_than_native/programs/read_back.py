"""Traces that are read back at once, by each of MLflow's ways to wait for them."""

import json
import sys
import time

import mlflow

from tests.better_than_native.programs.shipping import answer, begin, leave, trace

ROUNDS = 8
SPANS = 5


def spans_of(trace: mlflow.entities.Trace | None) -> int:
    return 0 if trace is None else len(trace.data.spans)


def main() -> None:
    options = begin()
    found: dict[str, list[int]] = {"get_trace": [], "search_traces": [], "flush": []}
    for number in range(options.get("rounds", ROUNDS)):
        trace_id = trace(3 * number, children=SPANS - 1)
        found["get_trace"].append(spans_of(mlflow.get_trace(trace_id, flush=True)))
        trace_id = trace(3 * number + 1, children=SPANS - 1)
        listed = mlflow.search_traces(flush=True, return_type="list")
        found["search_traces"] += [
            spans_of(one) for one in listed if one.info.trace_id == trace_id
        ] or [0]
        trace_id = trace(3 * number + 2, children=SPANS - 1)
        mlflow.flush_trace_async_logging()
        found["flush"].append(spans_of(mlflow.get_trace(trace_id)))
    answer(found=found)
    leave()


def burst() -> None:
    """Many traces, then one flush for all."""
    options = begin()
    number, found = 0, []
    for _ in range(options["bursts"]):
        made = {trace(number + n, children=SPANS - 1) for n in range(options["count"])}
        number += len(made)
        listed = mlflow.search_traces(flush=True, return_type="list", max_results=len(made))
        found.append(sum(one.info.trace_id in made and spans_of(one) == SPANS for one in listed))
    answer(found=found)
    leave()


def without_a_worker() -> None:
    options = begin()
    assert options["topic"]
    from spanferry.bridge import waiting

    waiting._STORED_S = options["bound_s"]  # half a minute is long for a test
    trace_id = trace(0)
    started = time.monotonic()
    missing = mlflow.get_trace(trace_id, flush=True)
    answer(missing=missing is None, waited_s=time.monotonic() - started)
    leave()


PROGRAMS = {"burst": burst, "without_a_worker": without_a_worker}

if __name__ == "__main__":
    PROGRAMS.get(json.loads(sys.argv[1]).get("part"), main)()
