"""@mlflow.trace on generators, with and without a reducer."""

import asyncio
import contextlib
import dataclasses

import mlflow

from tests.mlflow_api.registry import program


@dataclasses.dataclass
class Chunk:
    """What a model streams."""

    text: str
    index: int


@program()
def generator(stage):
    @mlflow.trace(span_type="LLM", attributes={"streams": True})
    def stream(count, *, stem="part"):
        for index in range(count):
            yield f"{stem} {index}"

    return [list(stream(3)), list(stream(0))]


@program()
def generator_with_reducer(stage):
    @mlflow.trace(output_reducer="".join)
    def stream(text):
        yield from text

    def breaks(chunks):
        raise ValueError("cannot reduce")

    @mlflow.trace(output_reducer=breaks)
    def not_reduced(text):
        yield from text

    return ["".join(stream("größe")), list(not_reduced("ab"))]


@program()
def generator_of_objects(stage):
    @mlflow.trace
    def stream():
        yield Chunk("a", 0)
        yield {"b": Chunk("b", 1)}
        yield None
        yield ("tuple", 1)
        yield object

    return len(list(stream()))


@program()
def generator_fails(stage):
    @mlflow.trace
    def stream():
        yield 1
        yield 2
        raise RuntimeError("lost the connection")

    got = []
    with contextlib.suppress(RuntimeError):
        got.extend(iter(stream()))
    return got


@program()
def generator_and_spans_inside(stage):
    @mlflow.trace
    def stream():
        with mlflow.start_span("before the first"):
            pass
        yield child(1)
        with mlflow.start_span("between"):
            yield child(2)

    @mlflow.trace
    def child(x):
        return x

    with mlflow.start_span("root"):
        for number in stream():
            with mlflow.start_span(f"consumer of {number}"):
                pass
    return mlflow.get_current_active_span()


@program()
def generator_left_early(stage):
    @mlflow.trace
    def stream():
        yield from range(10)

    with mlflow.start_span("root") as root:
        numbers = stream()
        root.set_outputs([next(numbers), next(numbers)])
        numbers.close()


@program()
def generator_driven_by_send(stage):
    @mlflow.trace
    def echoes():
        received = yield "first"
        yield received

    numbers = echoes()
    got = [next(numbers), numbers.send("sent")]
    with contextlib.suppress(StopIteration):
        next(numbers)
    return got


@program()
def async_generator(stage):
    @mlflow.trace(name="chat", span_type="CHAT_MODEL")
    async def stream(count):
        for index in range(count):
            await asyncio.sleep(0)
            with mlflow.start_span("inside"):
                pass
            yield {"delta": index}

    @mlflow.trace(output_reducer=len)
    async def reduced():
        yield "a"
        yield "b"

    async def main():
        return [[chunk async for chunk in stream(2)], [chunk async for chunk in reduced()]]

    return asyncio.run(main())


@program()
def async_generator_fails(stage):
    @mlflow.trace
    async def stream():
        yield 1
        raise ConnectionError("gone")

    async def main():
        got = []
        with contextlib.suppress(ConnectionError):
            async for chunk in stream():
                got.append(chunk)
        return got

    return asyncio.run(main())


@program()
def generator_into_an_experiment(stage):
    location = mlflow.entities.trace_location.MlflowExperimentLocation(stage.experiment("other"))

    @mlflow.trace(trace_destination=location)
    def stream():
        yield 1

    return list(stream())
