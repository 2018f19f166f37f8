"""@trace on generators and async generators: driven as they were, recorded as they went."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any

import pytest

import spanferry
from spanferry.testing import CapturedSpan, capture


def only_span(captured: capture) -> CapturedSpan:
    """The one span of the one trace."""
    (trace,) = captured.traces
    (span,) = trace.spans
    return span


def test_a_generator_is_current_only_while_it_runs(captured: capture) -> None:
    @spanferry.trace
    def numbers() -> Iterator[int]:
        for number in range(2):
            with spanferry.start_span(f"inside {number}"):
                yield number

    with spanferry.start_span("root") as root:
        for number in numbers():
            assert spanferry.get_current_active_span() is root
            with spanferry.start_span(f"outside {number}"):
                pass
    (trace,) = captured.traces
    stream = trace.span("numbers")
    assert stream.outputs == [0, 1]
    assert trace.span("outside 1").parent_id == trace.root.span_id
    assert trace.span("inside 1").parent_id == stream.span_id


def test_a_generator_is_driven_as_it_was(captured: capture) -> None:
    @spanferry.trace
    def echo() -> Generator[Any, Any, str]:
        got: Any = "start"
        while got != "stop":
            try:
                got = yield got
            except ValueError as error:
                got = f"caught {error}"
        return "returned"

    generator = echo()
    assert next(generator) == "start"
    assert generator.send("a") == "a"
    assert generator.throw(ValueError("b")) == "caught b"
    with pytest.raises(StopIteration) as stop:
        generator.send("stop")
    assert stop.value.value == "returned"
    assert only_span(captured).outputs == ["start", "a", "caught b"]


def test_a_generator_as_context_manager(captured: capture) -> None:
    cleaned: list[str] = []

    @contextlib.contextmanager
    @spanferry.trace
    def resource() -> Iterator[str]:
        try:
            yield "resource"
        finally:
            cleaned.append("up")

    with resource() as one:
        assert one == "resource"
    with pytest.raises(KeyError, match="inside"), resource():
        raise KeyError("inside")
    assert cleaned == ["up", "up"]
    assert [trace.state for trace in captured.traces] == ["OK", "ERROR"]


def test_a_generator_that_is_left_early_ends_its_span(captured: capture) -> None:
    cleaned: list[str] = []

    @spanferry.trace
    def numbers() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            cleaned.append("up")

    for _ in numbers():
        break
    gc.collect()
    generator = numbers()
    next(generator)
    generator.close()  # type: ignore[attr-defined]
    assert cleaned == ["up", "up"]
    assert [trace.root.outputs for trace in captured.traces] == [[0], [0]]
    assert all(trace.complete for trace in captured.traces)


def test_a_generator_that_fails_while_it_is_left(captured: capture) -> None:
    @spanferry.trace
    def numbers() -> Iterator[int]:
        try:
            yield 1
        finally:
            raise ValueError("while cleaning up")

    generator = numbers()
    next(generator)
    with pytest.raises(ValueError, match="while cleaning up"):
        generator.close()  # type: ignore[attr-defined]
    assert captured.traces[0].state == "ERROR"


def test_wrong_arguments_of_a_generator(captured: capture) -> None:
    @spanferry.trace
    def numbers(n: int) -> Iterator[int]:
        yield n

    with pytest.raises(TypeError, match="missing 1 required"):
        list(numbers())  # type: ignore[call-arg]
    assert captured.traces[0].state == "ERROR"


async def test_async_generators(captured: capture) -> None:
    @spanferry.trace(output_reducer="".join)
    async def letters() -> AsyncIterator[str]:
        for letter in "abc":
            await asyncio.sleep(0)
            with spanferry.start_span("inside"):
                yield letter

    with spanferry.start_span("root") as root:
        async for _ in letters():
            assert spanferry.get_current_active_span() is root
    (trace,) = captured.traces
    stream = trace.span("letters")
    assert stream.outputs == "abc"
    assert [event.name for event in stream.events] == [f"mlflow.chunk.item.{n}" for n in range(3)]
    assert trace.span("inside").parent_id == stream.span_id


async def test_an_async_generator_is_driven_as_it_was(captured: capture) -> None:
    @spanferry.trace
    async def echo() -> AsyncGenerator[Any, Any]:
        got: Any = "start"
        while got != "stop":
            try:
                got = yield got
            except ValueError as error:
                got = f"caught {error}"

    generator = echo()
    assert await anext(generator) == "start"
    assert await generator.asend("a") == "a"
    assert await generator.athrow(ValueError("b")) == "caught b"
    with pytest.raises(StopAsyncIteration):
        await generator.asend("stop")
    assert only_span(captured).outputs == ["start", "a", "caught b"]


async def test_an_async_generator_that_is_left_or_fails(captured: capture) -> None:
    cleaned: list[str] = []

    @spanferry.trace
    async def numbers(fails: bool) -> AsyncGenerator[int, None]:
        try:
            yield 1
            if fails:
                raise ValueError("wrong")
            yield 2
        finally:
            await asyncio.sleep(0)
            cleaned.append("up")

    left = numbers(fails=False)
    await anext(left)
    await left.aclose()
    with pytest.raises(ValueError, match="wrong"):
        _ = [number async for number in numbers(fails=True)]
    assert cleaned == ["up", "up"]
    assert [trace.state for trace in captured.traces] == ["OK", "ERROR"]
    assert captured.traces[0].root.outputs == [1]
    assert all(trace.complete for trace in captured.traces)


async def test_an_async_generator_finalised_by_the_loop(captured: capture) -> None:
    @spanferry.trace
    async def numbers() -> AsyncIterator[int]:
        yield 1
        yield 2

    async for _ in numbers():
        break
    gc.collect()
    await asyncio.sleep(0.01)
    assert only_span(captured).outputs == [1]
    assert spanferry.get_current_active_span() is None


def test_items_of_a_stream_are_kept_as_they_were(captured: capture) -> None:
    @spanferry.trace
    def states() -> Iterator[dict[str, int]]:
        state = {"n": 0}
        for state["n"] in range(3):
            yield state

    list(states())
    assert only_span(captured).outputs == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_of_a_long_stream_the_newest_events_are_kept_in_order(captured: capture) -> None:
    @spanferry.trace
    def tokens() -> Iterator[str]:
        span = spanferry.get_current_active_span()
        assert span is not None
        for number in range(200):
            if number == 150:
                span.add_event(spanferry.SpanEvent("own", span.trace.now_ns()))
            yield f"{number} "

    list(tokens())
    names = [event.name for event in only_span(captured).events]
    chunks = [f"mlflow.chunk.item.{number}" for number in range(73, 200)]
    assert names == [*chunks[:77], "own", *chunks[77:]]
    assert len(only_span(captured).outputs) == 200
