"""The event loop in virtual time, and the group that lives in it."""

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

import pytest

from spanferry_worker.testing import (
    GroupLog,
    ManualClock,
    MemoryBroker,
    MemoryGroup,
    SimulatedLoop,
    SimulatedProcess,
    StepsExhaustedError,
)
from tests.worker.kafka.logs import Owner


@pytest.fixture
def loop() -> SimulatedLoop:
    return SimulatedLoop(Random(1), steps_max=10_000)


async def ticks(name: str, seen: list[tuple[str, float]]) -> None:
    loop = asyncio.get_running_loop()
    try:
        while True:
            await asyncio.sleep(1)
            seen.append((name, loop.time()))
    finally:
        seen.append((f"{name} cleans up", loop.time()))


def run(loop: SimulatedLoop, work: Coroutine[Any, Any, None], *last: SimulatedProcess) -> None:
    """Run `work`, then let nothing linger."""

    async def all_of_it() -> None:
        try:
            await work
        finally:
            for process in last:
                loop.kill(process)

    loop.run_until_complete(all_of_it())
    assert loop.errors == []


def test_hours_pass_in_no_time(loop: SimulatedLoop) -> None:
    loop.run_until_complete(asyncio.sleep(3_600))
    assert loop.time() == 3_600
    with pytest.raises(TimeoutError):
        loop.run_until_complete(asyncio.wait_for(asyncio.Event().wait(), 5))
    assert loop.time() == 3_605


def test_a_process_that_stands_still_hears_its_timers_afterwards(loop: SimulatedLoop) -> None:
    seen: list[tuple[str, float]] = []
    one, other = loop.process("one"), loop.process("other")

    async def scene() -> None:
        one.run(ticks("one", seen))
        other.run(ticks("other", seen))
        await asyncio.sleep(1.5)
        one.frozen = True
        await asyncio.sleep(3)
        one.frozen = False
        await asyncio.sleep(1.2)

    run(loop, scene(), one, other)
    assert [at for name, at in seen if name == "one"] == [1.0, 4.5, 5.5]
    assert [at for name, at in seen if name == "other"] == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_who_is_killed_takes_no_step_any_more(loop: SimulatedLoop) -> None:
    seen: list[tuple[str, float]] = []
    one = loop.process("one")

    async def scene() -> None:
        async def family() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(ticks("a", seen))
                group.create_task(ticks("b", seen))

        one.run(family())
        await asyncio.sleep(2.5)
        loop.kill(one)
        await asyncio.sleep(10)

    run(loop, scene())
    assert max(at for _, at in seen) == 2.5
    assert sum("cleans up" in name for name, _ in seen) == 2  # off the record


def test_what_goes_round_or_waits_for_ever_is_found(loop: SimulatedLoop) -> None:
    async def spin() -> None:
        while True:  # noqa: ASYNC110 - that is what it does
            await asyncio.sleep(0)

    one = loop.process("one")
    one.run(spin())
    with pytest.raises(StepsExhaustedError, match="more steps"):
        loop.run_until_complete(asyncio.sleep(1))
    loop.kill(one)
    waiting = loop.process("waiting")
    waiting.run(asyncio.Event().wait())
    with pytest.raises(StepsExhaustedError, match="everybody waits"):
        loop.run_until_complete(waiting.tasks[0])
    loop.kill(waiting)
    loop.run_until_complete(asyncio.sleep(0))


def test_who_is_not_heard_of_is_out_and_commits_nothing(loop: SimulatedLoop) -> None:
    one, other = loop.process("one"), loop.process("other")

    async def scene() -> None:
        broker = MemoryBroker(ManualClock(), partitions=2)
        group = MemoryGroup(broker, session_s=1.0, rebalance_s=2.0)
        owners = Owner(), Owner()
        logs = [GroupLog(group, heartbeat_s=0.2) for _ in owners]
        await one.run(logs[0].open(owners[0]))
        await other.run(logs[1].open(owners[1]))
        assert [len(owner.partitions) for owner in owners] == [1, 1]
        lost = next(iter(owners[0].partitions))
        one.frozen = True
        await asyncio.sleep(2)
        assert len(owners[1].partitions) == 2
        assert await logs[0].commit({lost: 1}) is False
        assert await logs[1].commit({lost: 1}) is True
        one.frozen = False
        await asyncio.sleep(2)
        assert [len(owner.partitions) for owner in owners] == [1, 1]

    run(loop, scene(), one, other)


def test_a_rebalance_waits_for_nobody_longer_than_its_time(loop: SimulatedLoop) -> None:
    slow, new = loop.process("slow"), loop.process("new")

    async def scene() -> None:
        broker = MemoryBroker(ManualClock(), partitions=2)
        group = MemoryGroup(broker, session_s=60.0, rebalance_s=2.0)
        owner = Owner()
        owner.before_revoked = lambda: asyncio.sleep(10)
        await slow.run(GroupLog(group, heartbeat_s=0.2).open(owner))
        began = loop.time()
        newcomer = Owner()
        await new.run(GroupLog(group, heartbeat_s=0.2).open(newcomer))
        assert loop.time() - began == 2.0
        assert len(newcomer.partitions) == 2

    run(loop, scene(), slow, new)
