"""@mlflow.trace on functions, methods and coroutines."""

import asyncio
import contextlib
import functools
import inspect
import math

import mlflow
from mlflow.entities import SpanType

from tests.mlflow_api.registry import program


@program()
def plain_function(stage):
    @mlflow.trace
    def add(x, y=2):
        """Adds."""
        return x + y

    return [add(1), add(1, 5), add(x=3, y=4)]


@program()
def every_kind_of_argument(stage):
    @mlflow.trace
    def takes(a, /, b, *args, c=3, d, **kwargs):
        return {"a": a, "args": args, "kwargs": kwargs}

    @mlflow.trace
    def takes_nothing():
        return None

    takes(1, 2, 3, 4, d=5, e=6, f=None)
    takes(1, b=2, d=[1])
    return takes_nothing()


@program()
def methods(stage):
    class Service:
        def __init__(self):
            self.state = 1

        @mlflow.trace
        def method(self, x):
            return x + self.state

        @mlflow.trace
        @classmethod
        def outer_of_classmethod(cls, x):
            return cls.__name__, x

        @classmethod
        @mlflow.trace
        def inner_of_classmethod(cls, x):
            return x

        @mlflow.trace
        @staticmethod
        def outer_of_staticmethod(x):
            return x

        @staticmethod
        @mlflow.trace(span_type=SpanType.TOOL)
        def inner_of_staticmethod(x, self=None):
            return x

        @property
        @mlflow.trace
        def value(self):
            return self.state

        @mlflow.trace
        def __call__(self, *, q):
            return q

    service = Service()
    return [
        service.method(1),
        service.outer_of_classmethod(2),
        Service.inner_of_classmethod(3),
        service.outer_of_staticmethod(4),
        Service.inner_of_staticmethod(5, self="not one"),
        service.value,
        service(q=6),
    ]


@program()
def wrapped_by_hand(stage):
    traced = mlflow.trace(math.factorial)
    anonymous = mlflow.trace(lambda x: -x, name="negate")
    nameless = mlflow.trace(lambda x: x)
    part = functools.partial(divmod, 7)
    result = [traced(5), anonymous(2), nameless(3)]
    for options in ({"name": "part"}, {}):
        with contextlib.suppress(AttributeError):
            result.append(mlflow.trace(part, **options)(2))
    return result


@program()
def what_the_decorator_leaves(stage):
    @mlflow.trace(name="other")
    def answer(question: str, *, retries: int = 2) -> str:
        """Answers."""
        return question

    @mlflow.trace
    async def asynchronous(x):
        return x

    @mlflow.trace
    def generates(x):
        yield x

    return {
        "name": answer.__name__,
        "doc": answer.__doc__,
        "signature": str(inspect.signature(answer)),
        "wrapped": answer.__wrapped__.__name__,
        "marked": answer.__mlflow_traced__,
        "coroutine": inspect.iscoroutinefunction(asynchronous),
        "generator": inspect.isgeneratorfunction(generates),
        "module": answer.__module__,
    }


@program()
def coroutines(stage):
    @mlflow.trace(span_type="CHAIN")
    async def outer(x):
        first = await inner(x)
        second = await inner(x + 1)
        return first + second

    @mlflow.trace
    async def inner(x):
        await asyncio.sleep(0)
        return x * 2

    @mlflow.trace
    async def fails():
        await inner(1)
        raise LookupError("nothing there")

    result = asyncio.run(outer(3))
    with contextlib.suppress(LookupError):
        asyncio.run(fails())
    return result


@program()
def nested_and_recursive(stage):
    @mlflow.trace
    def fibonacci(n):
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    @mlflow.trace(name="root", span_type=SpanType.AGENT)
    def root():
        with mlflow.start_span("between") as span:
            span.set_inputs([1])
            return fibonacci(4)

    return root()


@program()
def name_type_attributes(stage):
    @mlflow.trace(
        name="größe", span_type="RETRIEVER", attributes={"k": 3, "nested": {"a": [1, None]}}
    )
    def retrieve(query):
        return [{"page_content": "text", "metadata": {"doc_uri": "a/b"}, "id": "1"}]

    @mlflow.trace(None, "second", "OWN TYPE")
    def own_type():
        return ()

    own_type()
    return retrieve("why?")


@program(since="3.13")
def decorator_log_level(stage):
    @mlflow.trace(log_level="WARNING")
    def by_name():
        inner()

    @mlflow.trace(log_level=mlflow.entities.SpanLogLevel.DEBUG)
    def inner():
        raise_nothing()

    @mlflow.trace(log_level="critical")
    def raise_nothing():
        with mlflow.start_span("default level", span_type="LLM"):
            pass

    by_name()


@program(since="3.15")
def decorator_links(stage):
    link = mlflow.entities.Link(trace_id="tr-" + "ab" * 16, span_id="cd" * 8, attributes={"a": 1})

    @mlflow.trace(links=[link])
    def linked():
        return 1

    @mlflow.trace(links=[link])
    def stream():
        yield 1

    linked()
    return list(stream())


@program(since="3.17.2")
def decorator_description(stage):
    @mlflow.trace(description="says what it does")
    def described():
        return 1

    @mlflow.trace(description="in pieces")
    def stream():
        yield 1

    described()
    return list(stream())


@program()
def sampling_ratio_of_a_function(stage):
    @mlflow.trace(sampling_ratio_override=0.0)
    def never(x):
        child(x)
        return type(mlflow.get_current_active_span()).__name__

    @mlflow.trace(sampling_ratio_override=1.0)
    def always(x):
        child(x)
        never(x)
        return x

    @mlflow.trace
    def child(x):
        return x

    @mlflow.trace(sampling_ratio_override=0.0)
    async def never_async(x):
        return child(x)

    @mlflow.trace(sampling_ratio_override=0.0)
    def never_stream(x):
        yield child(x)

    never(1)
    always(2)
    return [asyncio.run(never_async(3)), list(never_stream(4))]


@program()
def outputs_set_by_the_body(stage):
    @mlflow.trace
    def mine(question):
        span = mlflow.get_current_active_span()
        span.set_inputs({"only": question})
        span.set_outputs({"mine": True})
        span.set_attribute("from", "the body")
        return "not this"

    return mine("why?")


@program()
def called_wrongly(stage):
    @mlflow.trace
    def needs_one(x):
        return x

    errors = []
    for arguments in ((), (1, 2)):
        try:
            needs_one(*arguments)
        except TypeError as error:
            errors.append(str(error))
    return errors


@program()
def decorator_arguments_that_are_wrong(stage):
    errors = []
    for arguments in (
        {"sampling_ratio_override": 2.0},
        {"output_reducer": lambda chunks: chunks},
    ):
        try:
            mlflow.trace(lambda: 1, name="wrong", **arguments)()
        except Exception as error:
            errors.append(type(error).__name__)
    return errors


@program()
def arguments_that_change_later(stage):
    @mlflow.trace
    def appends(messages, options):
        messages.append({"role": "assistant", "content": "hi"})
        options["changed"] = True
        return messages

    messages = [{"role": "user", "content": "hello"}]
    result = appends(messages, {"a": {"b": 1}})
    result.append("after the end")
    messages.clear()
    return result
