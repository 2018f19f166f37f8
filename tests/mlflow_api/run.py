"""Run the programs in one process, each in an experiment of its own, and print what they returned.

python -m tests.mlflow_api.run --mode native|plain|accelerated --tracking-uri http://... \
    [--bootstrap-servers HOST:PORT --topic NAME] [--only NAME,...]
"""

import argparse
import contextvars
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import mlflow

from tests.mlflow_api.fake_models import fake_models
from tests.mlflow_api.otel_spans import otel_spans
from tests.mlflow_api.registry import Program, Stage, load_programs, reason_to_skip

FLUSH_TIMEOUT_S = 30
CLEARED = ("MLFLOW_ACTIVE_MODEL_ID", "MLFLOW_TRACE_SAMPLING_RATIO")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.mlflow_api.run")
    parser.add_argument("--mode", required=True, choices=("native", "plain", "accelerated"))
    parser.add_argument("--prefix", help="of the experiments' names; by default the mode")
    parser.add_argument("--tracking-uri", required=True)
    parser.add_argument("--bootstrap-servers")
    parser.add_argument("--topic")
    parser.add_argument("--only", default="")
    return parser.parse_args()


def kind_of_span(prefix: str) -> str:
    """Who makes the spans here: the module of their class."""
    mlflow.set_experiment(f"{prefix}-probe")
    with mlflow.start_span("probe") as span:
        return type(span).__module__


def shipped_by(options: argparse.Namespace) -> Callable[[], Any]:
    """Switch the mode on: how to flush."""
    if options.mode == "native":
        return mlflow.flush_trace_async_logging
    import spanferry

    spanferry.enable(
        bootstrap_servers=options.bootstrap_servers,
        topic=options.topic,
        accelerate=options.mode == "accelerated",
    )
    return lambda: spanferry.flush(FLUSH_TIMEOUT_S)


def sent(mode: str) -> dict[str, Any] | None:
    """spanferry's own account."""
    if mode == "native":
        return None
    import msgspec

    import spanferry

    return msgspec.to_builtins(spanferry.stats())


def restore() -> None:
    """Undo what a program left behind when it failed."""
    for name in CLEARED:
        os.environ.pop(name, None)
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.tracing.enable()
    mlflow.tracing.reset()


def run_program(one: Program, stage: Stage) -> dict[str, Any]:
    """What it returned or raised."""
    mlflow.set_experiment(f"{stage.mode}-{one.name}")
    began_ns = time.time_ns()
    try:
        result: dict[str, Any] = {"returned": contextvars.copy_context().run(one.run, stage)}
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    result["ran from to"] = [began_ns, time.time_ns()]
    restore()
    return result


def main() -> None:
    """Run, flush, print."""
    options = arguments()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    mlflow.set_tracking_uri(options.tracking_uri)
    flush = shipped_by(options)
    wanted = set(filter(None, options.only.split(",")))
    results: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    prefix = options.prefix or options.mode
    spans_of = kind_of_span(prefix)
    with fake_models() as url, otel_spans() as made:
        for one in load_programs().values():
            if wanted and one.name not in wanted:
                continue
            if reason := reason_to_skip(one, mlflow.__version__):
                skipped[one.name] = reason
                continue
            settle = flush if options.mode == "native" else lambda: None
            stage = Stage(prefix, one.name, url, settle)
            results[one.name] = run_program(one, stage)
            flush()
            results[one.name]["otel spans"] = list(made)
            made.clear()
    report = {
        "mlflow": mlflow.__version__,
        "results": results,
        "skipped": skipped,
        "spans of": spans_of,
        "sent": sent(options.mode),
    }
    print(json.dumps(report, default=repr))


if __name__ == "__main__":
    main()
