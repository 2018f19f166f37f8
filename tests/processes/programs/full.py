"""A job that traces until its buffer is full, and is over. `python -m tests.processes.programs.full BYTES`

BYTES is the size of each trace's inputs. Says its account when it is full, and at the very end.
"""

import atexit
import sys

import msgspec

ended = []


def say_at_the_very_end() -> None:
    """Registered first, called last."""
    print("at the end", msgspec.json.encode(ended[0].stats()).decode(), flush=True)


atexit.register(say_at_the_very_end)

import spanferry  # noqa: E402
from spanferry import client  # noqa: E402
from tests.processes.programs import timing  # noqa: E402

FULL = 0.97


def main(size: int) -> None:
    """As fast as it can."""
    spanferry.enable()
    timing.measure()
    ended.append(client._client)
    limit = client._client.settings.buffer_bytes * FULL
    number = 0
    while client._client._buffer.used_bytes < limit:
        with spanferry.start_span(f"trace-{number}") as span:
            span.set_inputs({"text": "x" * size, "number": number})
            with spanferry.start_span("inside"):
                pass
        number += 1
    print("full", msgspec.json.encode(spanferry.stats()).decode(), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
