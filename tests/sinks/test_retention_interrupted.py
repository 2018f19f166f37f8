"""`spanferry retention` killed, and beside a worker that writes: nothing goes in halves, and nothing else."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from tests.sinks.conftest import OpenSink, Place
from tests.sinks.retained import Desk, old, older_than, remains

pytestmark = [pytest.mark.mlflow, pytest.mark.chaos]

TRACES = 120
OLD = 100


@pytest.fixture
async def desk(database: Place, opened: OpenSink, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(database, await opened(database.uri), capsys)


@contextlib.contextmanager
def running(desk: Desk, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """The command as a process of its own."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "spanferry_worker", "retention"),
            *(f"--tracking-uri={desk.place.uri}", f"--experiment={desk.experiment}"),
            *words,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def some_are_gone(desk: Desk, process: "subprocess.Popen[str]") -> None:
    """Wait until the run is in the middle of it."""
    engine = sa.create_engine(desk.place.database)
    deadline = time.monotonic() + 150
    with engine.connect() as connection:
        while True:
            count = connection.execute(sa.text("SELECT count(*) FROM trace_info")).scalar_one()
            connection.rollback()
            if count < TRACES:
                break
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    engine.dispose()


async def test_killed_in_the_middle_the_next_run_does_the_rest(desk: Desk) -> None:
    ids = await desk.put(TRACES)
    words = [older_than(OLD), "--yes", "--batch-size=4", "--pause=0.05"]
    with running(desk, *words) as process:
        await asyncio.to_thread(some_are_gone, desk, process)
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)
    left = await desk.left()
    assert set(ids[OLD:]) < left < set(ids)
    assert await remains(desk.place) == {}
    ended = await desk.retention(older_than(OLD), "--yes")
    assert ended.code == 0, ended
    assert f"{len(left) - (TRACES - OLD)} traces deleted in all" in ended.out
    assert await desk.left() == set(ids[OLD:])
    assert await remains(desk.place) == {}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_beside_a_worker_that_writes(desk: Desk) -> None:
    ids = await desk.put(TRACES)
    written: list[str] = []
    slowest_s = 0.0
    meanwhile = 0
    with running(desk, older_than(OLD), "--yes", "--batch-size=5", "--pause=0.1") as process:
        while process.poll() is None:
            began_s = time.monotonic()
            number = 10_000 + len(written)
            written += await desk.store([old(number + one, desk.experiment) for one in range(3)])
            slowest_s = max(slowest_s, time.monotonic() - began_s)
            await asyncio.sleep(0.15)
            meanwhile += OLD > len((await desk.left()).difference(written)) - (TRACES - OLD) > 0
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert f"{OLD} traces deleted in all" in out
    assert meanwhile >= 3, "they have written in turns"
    assert slowest_s < 15, "below MLflow's 20 s for a locked SQLite"
    assert await desk.left() == {*ids[OLD:], *written}
    assert await remains(desk.place) == {}
