"""@trace on generators and async generators: driven as they were, recorded as they went."""

import asyncio
import contextlib
import gc
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any

import pytest

import spanferry
from spanferry import outlet as outlets
from spanferry.redaction import Redaction
from spanferry.settings import Settings
from spanferry.testing import CapturedSpan, capture
from spanferry_schemas.cutting import CUT_ATTRIBUTE, CUT_ITEMS_ATTRIBUTE


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


def limited(**options: Any) -> capture:
    return capture(Settings(bootstrap_servers="none:1", mlflow=False, **options))


@spanferry.trace
def repeated(item: Any, times: int) -> Iterator[Any]:
    """The same item over and over."""
    for _ in range(times):
        yield item


def test_of_an_endless_stream_no_more_is_kept_than_is_sent() -> None:
    item, items = "x" * 498, 100_000
    tracemalloc.start()
    with limited(payload_bytes_max=100_000) as captured:
        generator = repeated(item, items)
        for _ in range(1_000):
            next(generator)
        before = tracemalloc.get_traced_memory()[0]
        for _ in generator:
            pass
        assert tracemalloc.get_traced_memory()[1] - before < 1_000_000
    tracemalloc.stop()
    span = only_span(captured)
    assert span.outputs.startswith(f'["{item}","{item}"')
    assert span.outputs.endswith("x…")
    assert len(span.encoded_attributes()["mlflow.spanOutputs"]) <= 100_000
    whole = items * (len(item) + 3) + 1
    assert span.attributes[CUT_ATTRIBUTE] == {"mlflow.spanOutputs": whole}
    assert span.attributes[CUT_ITEMS_ATTRIBUTE] == items
    assert [span.events[0].name, span.events[-1].name] == [
        f"mlflow.chunk.item.{items - 128}",
        f"mlflow.chunk.item.{items - 1}",
    ]
    assert outlets.finished().truncated == 1


@pytest.mark.parametrize("times", [0, 1, 99, 100, 101, 102, 150])
def test_a_stream_is_cut_as_the_list_of_its_items_is(times: int) -> None:
    """From the limit on, not before, and with the same preview and the same size."""
    item = "x" * 7
    with limited(payload_bytes_max=1_001) as captured:
        list(repeated(item, times))
        with spanferry.start_span("list") as span:
            span.set_outputs([item] * times)
    streamed, at_once = (trace.root for trace in captured.traces)
    assert streamed.outputs == at_once.outputs
    assert streamed.attributes.get(CUT_ATTRIBUTE) == at_once.attributes.get(CUT_ATTRIBUTE)
    expected = times if times > 100 else None
    assert streamed.attributes.get(CUT_ITEMS_ATTRIBUTE) == expected


def test_a_long_stream_is_redacted_before_it_is_cut() -> None:
    with limited(payload_bytes_max=1_000, redact=Redaction(presets=["emails"])) as captured:
        list(repeated("bob@long-domain.example.com", 1_000))
    span = only_span(captured)
    assert "bob" not in str(span.outputs) + str(span.events)
    assert span.attributes[CUT_ATTRIBUTE]["mlflow.spanOutputs"] == 30_001
    assert span.attributes[CUT_ITEMS_ATTRIBUTE] == 1_000


def test_a_reducer_is_given_every_item_of_a_long_stream() -> None:
    @spanferry.trace(output_reducer=len)
    def numbers() -> Iterator[str]:
        yield from repeated("x" * 500, 1_000)

    with limited(payload_bytes_max=1_000) as captured:
        list(numbers())
    outer = captured.traces[0].span("numbers")
    assert outer.outputs == 1_000
    assert CUT_ATTRIBUTE not in outer.attributes


def test_where_nothing_is_cut_a_stream_is_kept_up_to_what_the_buffer_holds() -> None:
    with limited(payload_bytes_max=0, buffer_bytes=1_000_000) as captured:
        list(repeated("x" * 500, 1_900))
        list(repeated("x" * 500, 9_000))
    whole, parted = (trace.root for trace in captured.traces)
    assert len(whole.outputs) == 1_900
    assert CUT_ATTRIBUTE not in whole.attributes
    assert 1_900 < len(parted.outputs) < 2_000
    assert parted.attributes[CUT_ATTRIBUTE] == {"mlflow.spanOutputs": 9_000 * 503 + 1}
    assert captured.parcels[1].size > 1_000_000  # more than the buffer takes


def test_large_items_become_fewer_events() -> None:
    with limited(payload_bytes_max=1_000_000) as captured:
        generator = repeated("x" * 100_000, 50)
        list(generator)
    events = only_span(captured).events
    names = [event.name for event in events]
    assert names == [f"mlflow.chunk.item.{number}" for number in range(50 - len(names), 50)]
    assert len(names) == 9
