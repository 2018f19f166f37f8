"""An app whose every trace is known: what it does for trace N is what the store must show for N.

`python -m tests.end_to_end.program BOOTSTRAP TOPIC EXPERIMENT FIRST COUNT RATE` sends the traces
FIRST .. FIRST+COUNT-1 (RATE a second, 0: as fast as it goes), flushes, and prints its account as
one line of JSON. Kind and size of a trace follow from its number.
"""

import asyncio
import sys
import time
from typing import Any, NamedTuple

import msgspec

import spanferry
from spanferry import SpanType

__all__ = ["Expected", "expected", "run"]

SIZES = [10, 100, 1_000, 10_000, 10_000, 30_000]
GIANTS = {7: 1_000_000, 77: 5_000_000, 177: 10_000_000}
KINDS = ["nested", "async", "decorated", "error", "stream", "bare"]


class Expected(NamedTuple):
    """What MLflow must show for a trace. Spans: name -> (parent's name, type, status)."""

    number: int
    kind: str
    size: int
    spans: dict[str, tuple[str | None, str, str]]
    inputs: Any
    outputs: Any
    state: str


def payload(number: int) -> str:
    """The question of trace N: its size decides how large the trace is."""
    size = GIANTS.get(number, SIZES[number % len(SIZES)])
    stem = f"q{number} größer "
    return (stem * (size // len(stem) + 1))[: max(size, len(stem))]


def expected(number: int) -> Expected:
    """What the store must show for trace N."""
    kind = KINDS[number % len(KINDS)]
    question = payload(number)
    answer = f"answer {number}"
    tree: dict[str, tuple[str | None, str, str]] = {"root": (None, "AGENT", "OK")}
    inputs: Any = {"question": question}
    outputs: Any = {"answer": answer}
    state = "OK"
    if kind == "nested":
        tree |= {
            "retrieve": ("root", "RETRIEVER", "OK"),
            "rank": ("retrieve", "RERANKER", "OK"),
            "model": ("root", "LLM", "OK"),
        }
    elif kind == "async":
        tree |= {f"part {n}": ("root", "TOOL", "OK") for n in range(3)}
    elif kind == "decorated":
        tree |= {"step": ("root", "TOOL", "OK")}
        outputs = [answer, number]
    elif kind == "error":
        tree = {"root": (None, "AGENT", "ERROR"), "fails": ("root", "TOOL", "ERROR")}
        outputs = None
        state = "ERROR"
    elif kind == "stream":
        inputs = {"question": question, "count": 3}
        outputs = [f"{answer} {n}" for n in range(3)]
    return Expected(number, kind, len(question), tree, inputs, outputs, state)


def _describe(number: int) -> None:
    spanferry.update_current_trace(
        tags={"number": str(number), "kind": KINDS[number % len(KINDS)]},
        metadata={"build": "e2e"},
        client_request_id=f"req-{number}",
        session_id=f"session-{number // 10}",
        user=f"user-{number % 7}",
    )


def nested(number: int) -> None:
    with spanferry.start_span("root", span_type=SpanType.AGENT) as root:
        _describe(number)
        root.set_inputs({"question": payload(number)})
        with spanferry.start_span("retrieve", span_type=SpanType.RETRIEVER) as retrieve:
            retrieve.set_attribute("k", 3)
            with spanferry.start_span("rank", span_type=SpanType.RERANKER):
                pass
        with spanferry.start_span("model", span_type=SpanType.LLM) as model:
            model.set_outputs({"text": "ok"})
        root.set_outputs({"answer": f"answer {number}"})


async def in_tasks(number: int) -> None:
    async def part(n: int) -> None:
        with spanferry.start_span(f"part {n}", span_type=SpanType.TOOL):
            await asyncio.sleep(0)

    with spanferry.start_span("root", span_type=SpanType.AGENT) as root:
        _describe(number)
        root.set_inputs({"question": payload(number)})
        async with asyncio.TaskGroup() as tasks:
            for n in range(3):
                tasks.create_task(part(n))
        root.set_outputs({"answer": f"answer {number}"})


def decorated(number: int) -> None:
    @spanferry.trace(name="step", span_type=SpanType.TOOL)
    def step(value: int) -> int:
        return value

    @spanferry.trace(name="root", span_type=SpanType.AGENT)
    def root(question: str) -> tuple[str, int]:
        _describe(number)
        return f"answer {number}", step(number)

    root(payload(number))


def error(number: int) -> None:
    def fails() -> None:
        with spanferry.start_span("fails", span_type=SpanType.TOOL):
            raise ValueError(f"no {number}")

    try:
        with spanferry.start_span("root", span_type=SpanType.AGENT) as root:
            _describe(number)
            root.set_inputs({"question": payload(number)})
            fails()
    except ValueError:
        return
    raise AssertionError("the app's own exception was swallowed")


def stream(number: int) -> None:
    @spanferry.trace(name="root", span_type=SpanType.AGENT)
    def root(question: str, count: int = 3):
        _describe(number)
        for n in range(count):
            yield f"answer {number} {n}"

    assert len(list(root(payload(number)))) == 3


def bare(number: int) -> None:
    with spanferry.start_span("root", span_type=SpanType.AGENT) as root:
        _describe(number)
        root.set_inputs({"question": payload(number)})
        root.set_outputs({"answer": f"answer {number}"})


def run(number: int) -> None:
    """Do trace N."""
    kind = KINDS[number % len(KINDS)]
    if kind == "async":
        asyncio.run(in_tasks(number))
    else:
        {"nested": nested, "decorated": decorated, "error": error, "stream": stream, "bare": bare}[
            kind
        ](number)


def main(bootstrap: str, topic: str, experiment: str, first: int, count: int, rate: float) -> None:
    """Send, flush, account."""
    spanferry.enable(bootstrap_servers=bootstrap, topic=topic, experiment=experiment)
    slowest = 0.0
    for number in range(first, first + count):
        started = time.perf_counter()
        run(number)
        slowest = max(slowest, time.perf_counter() - started)
        if rate:
            time.sleep(1 / rate)
    flushed = spanferry.flush(60)
    account = msgspec.to_builtins(spanferry.stats())
    print(msgspec.json.encode(account | {"flushed": flushed, "slowest_s": slowest}).decode())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], *map(int, sys.argv[4:6]), float(sys.argv[6]))
