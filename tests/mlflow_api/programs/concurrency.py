"""Threads and tasks."""

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import mlflow

from tests.mlflow_api.registry import program


@mlflow.trace(span_type="TOOL")
def square(number):
    with mlflow.start_span(f"inside {number}"):
        return number * number


@program(concurrent=True)
def threads_with_the_context(stage):
    @mlflow.trace
    def fan_out():
        with ThreadPoolExecutor(3) as pool:
            futures = [
                pool.submit(contextvars.copy_context().run, square, number) for number in range(4)
            ]
        return [future.result() for future in futures]

    return fan_out()


@program()
def threads_without_the_context(stage):
    with mlflow.start_span("root"):
        threads = [
            threading.Thread(target=mlflow.trace(square, name=f"thread {n}"), args=(n,))
            for n in range(3)
        ]
        for thread in threads:
            thread.start()
            thread.join()


@program(concurrent=True)
def gathered_tasks(stage):
    @mlflow.trace
    async def part(number):
        await asyncio.sleep(0.001 * (3 - number))
        with mlflow.start_span(f"inside {number}"):
            await asyncio.sleep(0)
        return number

    @mlflow.trace(span_type="AGENT")
    async def agent():
        mlflow.update_current_trace(tags={"kind": "gather"})
        return await asyncio.gather(*(part(number) for number in range(4)))

    return asyncio.run(agent())


@program(concurrent=True)
def tasks_of_several_traces(stage):
    async def request(number):
        with mlflow.start_span(f"request {number}") as span:
            await asyncio.sleep(0.001)
            mlflow.update_current_trace(tags={"number": str(number)})
            with mlflow.start_span("step"):
                await asyncio.sleep(0.001)
            span.set_outputs(number)
            return mlflow.get_active_trace_id() == span.trace_id

    async def main():
        return await asyncio.gather(*(request(number) for number in range(3)))

    return asyncio.run(main())


@program(concurrent=True)
def traces_of_several_threads(stage):
    barrier = threading.Barrier(3, timeout=10)

    def request(number):
        barrier.wait()
        with mlflow.start_span(f"request {number}") as span:
            square(number)
            span.set_inputs(number)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(request, range(3)))


@program(concurrent=True)
def work_in_threads_of_a_task(stage):
    @mlflow.trace
    async def answer():
        return await asyncio.gather(*(asyncio.to_thread(square, n) for n in range(3)))

    return asyncio.run(answer())


@program()
def span_handed_to_a_thread(stage):
    with mlflow.start_span("root") as root:
        child = mlflow.start_span_no_context("ended elsewhere", parent_span=root)

        def work():
            child.set_inputs({"thread": True})
            child.end(outputs=1)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()


@program()
def cancelled_task(stage):
    async def slow():
        with mlflow.start_span("slow"):
            await asyncio.sleep(60)

    async def main():
        with mlflow.start_span("root"):
            try:
                await asyncio.wait_for(slow(), 0.02)
            except TimeoutError:
                return "timed out"

    return asyncio.run(main())
