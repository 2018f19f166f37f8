"""A serverless function: for each line that it reads one trace, and a flush before it answers.

`python -m tests.processes.programs.invoked FLUSH`: with `flush`, or without for `no-flush`.
"""

import sys

import spanferry


def main(flush: bool) -> None:
    """Invocations until there are no more lines."""
    spanferry.enable()
    for line in sys.stdin:
        with spanferry.start_span(line.strip()), spanferry.start_span("inside"):
            pass
        print("answered", spanferry.flush(30) if flush else "", flush=True)


if __name__ == "__main__":
    main(sys.argv[1] == "flush")
