"""`@trace`: a span around every call of a function, a coroutine, a generator or an async generator."""

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, cast, overload

from msgspec import Struct
from msgspec.structs import replace

from spanferry import values
from spanferry.arguments import Arguments
from spanferry.context import CurrentToken, current, leave
from spanferry.dressing import TraceDestination, destination_of, dress
from spanferry.entities import LinkLike, SpanLogLevel, SpanType
from spanferry.log import say_once
from spanferry.opening import open_span
from spanferry.spans import NO_OP_SPAN, Span
from spanferry.stopping import let_through
from spanferry.stream import Stream
from spanferry_schemas import mlflow_keys

__all__ = ["trace"]

P = ParamSpec("P")
R = TypeVar("R")


class Options(Struct, frozen=True):
    """What a decorated function's spans have in common."""

    name: str
    span_type: str
    attributes: Mapping[str, Any] | None
    output_reducer: Callable[[list[Any]], Any] | None
    experiment_id: str | None
    ratio: float | None
    log_level: SpanLogLevel | str | None
    links: Sequence[LinkLike] | None
    description: str | None


@overload
def trace(
    func: Callable[P, R],
    name: str | None = None,
    span_type: str = SpanType.UNKNOWN,
    attributes: Mapping[str, Any] | None = None,
    output_reducer: Callable[[list[Any]], Any] | None = None,
    trace_destination: TraceDestination | None = None,
    sampling_ratio_override: float | None = None,
    log_level: SpanLogLevel | str | None = None,
    links: Sequence[LinkLike] | None = None,
    description: str | None = None,
) -> Callable[P, R]: ...


@overload
def trace(
    func: None = None,
    name: str | None = None,
    span_type: str = SpanType.UNKNOWN,
    attributes: Mapping[str, Any] | None = None,
    output_reducer: Callable[[list[Any]], Any] | None = None,
    trace_destination: TraceDestination | None = None,
    sampling_ratio_override: float | None = None,
    log_level: SpanLogLevel | str | None = None,
    links: Sequence[LinkLike] | None = None,
    description: str | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def trace(  # noqa: PLR0913, PLR0917  MLflow's signature
    func: Callable[..., Any] | None = None,
    name: str | None = None,
    span_type: str = SpanType.UNKNOWN,
    attributes: Mapping[str, Any] | None = None,
    output_reducer: Callable[[list[Any]], Any] | None = None,
    trace_destination: TraceDestination | None = None,
    sampling_ratio_override: float | None = None,
    log_level: SpanLogLevel | str | None = None,
    links: Sequence[LinkLike] | None = None,
    description: str | None = None,
) -> Callable[..., Any]:
    """Record every call as a span: arguments as inputs, result as outputs, an exception as an error.

    Takes functions, coroutines, generators and async generators, and methods of every kind. For
    generators each item is an event, and all of them, or what `output_reducer` makes of them, are
    the outputs. `set_outputs` inside a function goes before its result. `trace_destination` and
    `sampling_ratio_override` (0 to 1) apply where the call starts a trace.

    Of a generator's items no more is kept than `payload_bytes_max` lets through: the span says in
    `spanferry.cut` how many bytes there were, in `spanferry.cut.items` how many items. A reducer is
    given every item, so with one all of them stay in memory until the end: none for what never ends.

    Raises ValueError, when decorating and never when called, for a ratio outside of 0 to 1 and for
    an `output_reducer` on what is not a generator.
    """
    if sampling_ratio_override is not None and not 0.0 <= sampling_ratio_override <= 1.0:
        raise ValueError(
            f"sampling_ratio_override must be between 0.0 and 1.0, got {sampling_ratio_override}"
        )
    options = Options(
        name=name or "",
        span_type=span_type,
        attributes=attributes,
        output_reducer=output_reducer,
        experiment_id=None if trace_destination is None else destination_of(trace_destination),
        ratio=sampling_ratio_override,
        log_level=log_level,
        links=links,
        description=description,
    )

    def decorate(function: Any) -> Any:
        if isinstance(function, classmethod | staticmethod):
            inner: Callable[..., Any] = function.__func__
            return type(function)(_traced(inner, options))
        return _traced(function, options)

    return decorate if func is None else cast("Callable[..., Any]", decorate(func))


def _traced(function: Callable[..., Any], options: Options) -> Callable[..., Any]:
    name = options.name or _name_of(function)
    options = replace(options, name=name)
    if inspect.isgeneratorfunction(function):
        wrapper = _traced_generator(function, options)
    elif inspect.isasyncgenfunction(function):
        wrapper = _traced_async_generator(function, options)
    elif options.output_reducer is not None:
        raise ValueError("output_reducer is for generators only; set_outputs() does the same here")
    elif inspect.iscoroutinefunction(function):
        wrapper = _traced_coroutine(function, options)
    else:
        wrapper = _traced_function(function, options)
    return functools.wraps(function)(wrapper)


class _Opening:
    """Opens the spans of one decorated function."""

    __slots__ = ("_arguments", "_dressed", "_function_name", "_options")

    def __init__(
        self, function: Callable[..., Any], options: Options, *, function_name: bool
    ) -> None:
        self._arguments = Arguments(function)
        self._function_name = values.encode(_name_of(function)) if function_name else None
        self._options = options
        self._dressed = any(
            (options.attributes, options.description, options.log_level, options.links)
        )

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Span:
        """A span with its inputs. Never raises; not current yet."""
        options = self._options
        span = open_span(
            options.name, options.span_type, None, None, options.experiment_id, options.ratio
        )
        if not span.recording:
            return span
        try:
            if self._dressed:
                dress(
                    span,
                    options.attributes,
                    options.description,
                    options.log_level,
                    options.links,
                )
            if self._function_name is not None:
                span.set_encoded(mlflow_keys.SPAN_FUNCTION_NAME, self._function_name)
            inputs = self._arguments(args, kwargs)
            if inputs is None:
                say_once("inputs", "the arguments of %s could not be recorded", options.name)
            span.set_inputs(inputs)
        except BaseException as error:  # noqa: BLE001  the app must not see our troubles
            let_through(error)
            say_once("span-inputs", "inputs could not be recorded: %s", values.text(error))
        return span


def _traced_function(function: Callable[..., Any], options: Options) -> Callable[..., Any]:
    opening = _Opening(function, options, function_name=True)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        span = opening(args, kwargs)
        if span is NO_OP_SPAN:
            return function(*args, **kwargs)
        token = current.set(span)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            leave(token)
            _fail(span, error)
            raise
        leave(token)
        _finish(span, result)
        return result

    return wrapper


def _traced_coroutine(function: Callable[..., Any], options: Options) -> Callable[..., Any]:
    opening = _Opening(function, options, function_name=True)

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        span = opening(args, kwargs)
        if span is NO_OP_SPAN:
            return await function(*args, **kwargs)
        token = current.set(span)
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            leave(token)
            _fail(span, error)
            raise
        leave(token)
        _finish(span, result)
        return result

    return wrapper


def _traced_generator(function: Callable[..., Any], options: Options) -> Callable[..., Any]:
    opening = _Opening(function, options, function_name=False)

    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        span = opening(args, kwargs)
        if span is NO_OP_SPAN:
            return (yield from function(*args, **kwargs))
        stream = Stream(span, options.output_reducer)
        generator: Generator[Any, Any, Any] | None = None
        sent: Any = None
        thrown: BaseException | None = None
        while True:
            token = current.set(span)  # only while the generator's own code runs
            try:
                if generator is None:
                    generator = cast("Generator[Any, Any, Any]", function(*args, **kwargs))
                item = generator.send(sent) if thrown is None else generator.throw(thrown)
            except StopIteration as stop:
                leave(token)
                stream.finish()
                return stop.value
            except BaseException as error:
                leave(token)
                stream.fail(error)
                thrown = None
                raise
            leave(token)
            stream.item(item)
            sent = thrown = None
            try:
                sent = yield item
            except GeneratorExit:
                _close(generator, span, stream)
                raise
            except BaseException as error:  # noqa: BLE001  the generator's to handle
                thrown = error

    return wrapper


def _traced_async_generator(function: Callable[..., Any], options: Options) -> Callable[..., Any]:
    opening = _Opening(function, options, function_name=False)

    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        span = opening(args, kwargs)
        stream = Stream(span, options.output_reducer)
        generator: AsyncGenerator[Any, Any] | None = None
        sent: Any = None
        thrown: BaseException | None = None
        while True:
            token = _enter(span)
            try:
                if generator is None:
                    generator = cast("AsyncGenerator[Any, Any]", function(*args, **kwargs))
                if thrown is None:
                    item = await generator.asend(sent)
                else:
                    item = await generator.athrow(thrown)
            except StopAsyncIteration:
                _leave(token)
                stream.finish()
                return
            except BaseException as error:
                _leave(token)
                stream.fail(error)
                thrown = None
                raise
            _leave(token)
            stream.item(item)
            sent = thrown = None
            try:
                sent = yield item
            except GeneratorExit:
                await _aclose(generator, span, stream)
                raise
            except BaseException as error:  # noqa: BLE001  the generator's to handle
                thrown = error

    return wrapper


def _close(generator: Generator[Any, Any, Any], span: Span, stream: Stream) -> None:
    """Nobody wants the rest of a generator: let it clean up, as part of its span."""
    token = current.set(span)
    try:
        generator.close()
    except BaseException as error:
        leave(token)
        stream.fail(error)
        raise
    leave(token)
    stream.finish()


async def _aclose(generator: AsyncGenerator[Any, Any], span: Span, stream: Stream) -> None:
    """Nobody wants the rest of an async generator: let it clean up, as part of its span."""
    token = _enter(span)
    try:
        await generator.aclose()
    except BaseException as error:
        _leave(token)
        stream.fail(error)
        raise
    _leave(token)
    stream.finish()


def _enter(span: Span) -> CurrentToken | None:
    """Make a span current; one of an app that is not enabled changes nothing."""
    return None if span is NO_OP_SPAN else current.set(span)


def _leave(token: CurrentToken | None) -> None:
    if token is not None:
        leave(token)


def _finish(span: Span, result: Any) -> None:
    if span.lacks_outputs:
        span.set_outputs(result)
    if span.end_time_ns is None:
        span.end()


def _fail(span: Span, error: BaseException) -> None:
    """As MLflow: what is no Exception (a cancelled task, an exit) is not recorded as an error."""
    if isinstance(error, Exception):
        span.record_exception(error)
    if span.end_time_ns is None:
        span.end()


def _name_of(function: Callable[..., Any]) -> str:
    return values.text(getattr(function, "__name__", type(function).__name__))
