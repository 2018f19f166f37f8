"""Where a span goes that is opened in another thread or task of its trace: as contextvars have it."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest

import spanferry
from spanferry.testing import capture

pytestmark = pytest.mark.usefixtures("captured")


@pytest.fixture
def captured():
    with capture() as outlet:
        yield outlet


def step(name: str = "step") -> str:
    with spanferry.start_span(name) as span:
        return span.trace_id


def test_a_thread_begins_a_trace_of_its_own():
    """As it does with MLflow: a thread has a context of its own, which is empty."""
    with spanferry.start_span("root") as root, ThreadPoolExecutor(1) as pool:
        assert pool.submit(step).result() != root.trace_id


def test_a_copied_context_goes_with_one_call():
    with spanferry.start_span("root") as root, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(copy_context().run, step) for _ in range(5)]
        assert {one.result() for one in waiting} == {root.trace_id}
    assert step() != root.trace_id


def test_a_copied_context_goes_with_every_call_of_a_map():
    """Each needs a copy, because no context can be entered twice at once."""
    with spanferry.start_span("root") as root, ThreadPoolExecutor(4) as pool:
        here = copy_context()
        found = pool.map(lambda name: here.copy().run(step, name), "abcdefgh")
        assert set(found) == {root.trace_id}


def test_a_copied_context_goes_with_a_thread():
    found: list[str] = []
    with spanferry.start_span("root") as root:
        thread = threading.Thread(target=copy_context().run, args=[lambda: found.append(step())])
        thread.start()
        thread.join()
    assert found == [root.trace_id]


async def test_tasks_groups_and_to_thread_carry_it_by_themselves():
    async def one() -> str:
        await asyncio.sleep(0)
        return step()

    with spanferry.start_span("root") as root:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one()) for _ in range(5)]
        assert {task.result() for task in tasks} == {root.trace_id}
        assert set(await asyncio.gather(one(), one())) == {root.trace_id}
        assert await asyncio.to_thread(step) == root.trace_id
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, step) != root.trace_id
        assert await loop.run_in_executor(None, copy_context().run, step) == root.trace_id


async def test_what_a_task_opens_stays_in_it():
    opened, closing = asyncio.Event(), asyncio.Event()

    async def beside() -> None:
        with spanferry.start_span("beside"):
            opened.set()
            await closing.wait()

    with spanferry.start_span("root") as root:
        task = asyncio.ensure_future(beside())
        await opened.wait()
        assert spanferry.get_current_active_span() is root
        closing.set()
        await task
