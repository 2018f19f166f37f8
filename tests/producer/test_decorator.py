"""@trace: the function as it was, with a span around it."""

import asyncio
import contextlib
import functools
import inspect
import math
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any

import pytest

import spanferry
from spanferry.testing import CapturedSpan, capture
from tests.producer.hostile import Hostile


def only_span(captured: capture) -> CapturedSpan:
    """The one span of the one trace."""
    (trace,) = captured.traces
    (span,) = trace.spans
    return span


def test_the_function_looks_as_it_did() -> None:
    def function(a: int, *, b: str = "x") -> str:
        """What it does."""
        return b * a

    traced = spanferry.trace(function)
    assert (traced.__name__, traced.__doc__) == ("function", "What it does.")
    assert inspect.signature(traced) == inspect.signature(function)
    assert inspect.unwrap(traced) is function

    async def coroutine() -> None: ...

    def generator() -> Iterator[int]:
        yield 1

    async def async_generator() -> AsyncIterator[int]:
        yield 1

    assert inspect.iscoroutinefunction(spanferry.trace(coroutine))
    assert inspect.isgeneratorfunction(spanferry.trace(generator))
    assert inspect.isasyncgenfunction(spanferry.trace(async_generator))


def call_with(captured: capture, function: Any, *args: Any, **kwargs: Any) -> Any:
    """The inputs that a call of the traced function records."""
    captured.clear()
    with contextlib.suppress(TypeError):
        spanferry.trace(function)(*args, **kwargs)
    return only_span(captured).inputs


def test_arguments_are_recorded_by_name(captured: capture) -> None:
    def plain(a: int, b: int = 2, *, c: int = 3) -> None: ...
    def positional(a: int, /, b: int) -> None: ...
    def variadic(a: int, *rest: int, **others: int) -> None: ...

    assert call_with(captured, plain, 1) == {"a": 1, "b": 2, "c": 3}
    assert call_with(captured, plain, 1, 5) == {"a": 1, "b": 5, "c": 3}
    assert call_with(captured, plain, c=7, a=1) == {"a": 1, "b": 2, "c": 7}
    assert call_with(captured, positional, 1, 2) == {"a": 1, "b": 2}
    assert call_with(captured, positional, 1, b=2) == {"a": 1, "b": 2}
    assert call_with(captured, variadic, 1) == {"a": 1, "rest": [], "others": {}}
    assert call_with(captured, variadic, 1, 2, x=3) == {"a": 1, "rest": [2], "others": {"x": 3}}
    assert call_with(captured, lambda: None) == {}
    for wrong in [{"z": 1}, {"a": 1, "z": 1}, {}]:
        assert call_with(captured, plain, **wrong) is None
    assert call_with(captured, plain, 1, 2, 3) is None
    assert call_with(captured, variadic) is None


def test_self_and_cls_are_left_out(captured: capture) -> None:
    class Empty:
        """Nothing in it, so that it counts as False."""

        def __len__(self) -> int:
            return 0

        @spanferry.trace
        def method(self, a: int) -> int:
            return a

        @classmethod
        @spanferry.trace
        def class_method(cls, a: int) -> int:
            return a

        @staticmethod
        @spanferry.trace
        def static_method(a: int) -> int:
            return a

    def cls_is_a_word(cls: str) -> str:
        return cls

    for call in (Empty().method, Empty.class_method, Empty.static_method):
        assert call(1) == 1
    assert [trace.root.inputs for trace in captured.traces] == [{"a": 1}] * 3
    assert call_with(captured, cls_is_a_word, "x") == {"cls": "x"}


def test_callables_of_other_kinds(captured: capture) -> None:
    class Callable:
        def __call__(self, a: int) -> int:
            return a + 1

    assert spanferry.trace(Callable())(1) == 2
    assert spanferry.trace(functools.partial(max, 3))(4) == 4
    assert spanferry.trace(math.hypot)(3, 4) == 5
    assert spanferry.trace(dict)(a=1) == {"a": 1}
    names = [trace.root.name for trace in captured.traces]
    assert names == ["Callable", "partial", "hypot", "dict"]
    assert captured.traces[0].root.inputs == {"a": 1}


def test_hostile_arguments_and_results_pass_untouched(captured: capture) -> None:
    hostile = Hostile()

    @spanferry.trace
    def function(a: Any) -> Any:
        return a

    assert function(hostile) is hostile
    assert "cannot record Hostile" in only_span(captured).outputs


@pytest.mark.parametrize(
    "kind", [ValueError, StopIteration, KeyboardInterrupt, SystemExit, GeneratorExit]
)
def test_the_apps_exceptions_pass_unchanged(kind: type[BaseException], captured: capture) -> None:
    error, cause = kind("wrong"), KeyError("cause")

    @spanferry.trace
    def function() -> None:
        raise error from cause

    with pytest.raises(kind) as raised:
        function()
    assert raised.value is error
    assert raised.value.__cause__ is cause
    assert raised.value.__context__ is None
    recorded = issubclass(kind, Exception)
    assert only_span(captured).status.status_code == ("ERROR" if recorded else "OK")
    assert len(only_span(captured).events) == recorded
    assert spanferry.get_current_active_span() is None


async def test_coroutines(captured: capture) -> None:
    @spanferry.trace(span_type="TOOL")
    async def inner(a: int) -> int:
        await asyncio.sleep(0)
        return a + 1

    @spanferry.trace
    async def outer(a: int) -> int:
        first, second = await asyncio.gather(inner(a), inner(a + 1))
        return first + second

    assert await outer(1) == 5
    (trace,) = captured.traces
    assert [(span.name, span.outputs) for span in trace.spans] == [
        ("outer", 5),
        ("inner", 2),
        ("inner", 3),
    ]
    assert {span.parent_id for span in trace.spans[1:]} == {trace.root.span_id}


async def test_a_cancelled_coroutine_ends_its_span(captured: capture) -> None:
    @spanferry.trace
    async def waits() -> None:
        await asyncio.sleep(60)

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert only_span(captured).status.status_code == "OK"  # as in MLflow
    assert captured.traces[0].complete


@pytest.mark.usefixtures("unsaid")
async def test_without_enable_functions_run_untouched() -> None:
    @spanferry.trace
    def function(a: int) -> int:
        return a

    @spanferry.trace
    async def coroutine(a: int) -> int:
        return a

    @spanferry.trace
    def generator() -> Generator[int, int, str]:
        got = yield 1
        yield got
        return "returned"

    @spanferry.trace
    async def async_generator() -> AsyncGenerator[int, int]:
        got = yield 1
        yield got

    assert function(1) == await coroutine(1) == 1
    numbers = generator()
    assert (next(numbers), numbers.send(5), list(numbers)) == (1, 5, [])
    others = async_generator()
    assert (await anext(others), await others.asend(5)) == (1, 5)
    await others.aclose()
    with pytest.raises(TypeError):
        function()  # type: ignore[call-arg]


def test_what_started_before_enable_does_not_silence_what_comes_after(unsaid: None) -> None:
    with spanferry.start_span("before"), capture() as captured, spanferry.start_span("after"):
        pass
    assert [trace.name for trace in captured.traces] == ["after"]


@pytest.mark.usefixtures("unsaid")
def test_a_sampling_ratio_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", "0")

    @spanferry.trace(sampling_ratio_override=1.0)
    def always() -> None:
        never()

    @spanferry.trace(sampling_ratio_override=0.0)
    def never() -> None:
        always() if False else None

    @spanferry.trace(sampling_ratio_override=0.0)
    def dropped() -> Iterator[int]:
        with spanferry.start_span("inside"):
            yield 1

    with capture() as captured:
        always()
        never()
        list(dropped())
    (trace,) = captured.traces
    assert [span.name for span in trace.spans] == ["always", "never"]


def test_wrong_use_is_an_error_when_decorating() -> None:
    with pytest.raises(ValueError, match=r"between 0\.0 and 1\.0"):
        spanferry.trace(sampling_ratio_override=1.5)
    with pytest.raises(ValueError, match="for generators only"):
        spanferry.trace(print, output_reducer=len)
