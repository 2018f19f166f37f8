"""So many traces are open at once before the first of them ends."""

import mlflow

from tests.better_than_native.programs.shipping import answer, begin, bounded, leave


def main() -> None:
    options = begin()
    roots = [
        mlflow.start_span_no_context("root", tags={"number": str(number)})
        for number in range(options["count"])
    ]
    for root in roots:
        root.end()
    answer(flushed=bounded(mlflow.flush_trace_async_logging, options["flush_s"]))
    leave()


if __name__ == "__main__":
    main()
