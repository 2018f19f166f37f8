"""Several processes under one: restarted when they die, stopped together, never left behind."""

import asyncio
import os
import random
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from spanferry_worker.runtime.health import fetch
from spanferry_worker.runtime.lifecycle import FATAL_EXIT_CODE
from spanferry_worker.runtime.supervisor import Supervisor
from spanferry_worker.settings import load_settings
from tests.services.process import GuardedProcess, free_port
from tests.worker.runtime.harness import until

pytestmark = pytest.mark.chaos
HOST = "127.0.0.1"


class Fleet:
    """A supervisor of two workers that wait for a store which is not there."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        config = folder / "worker.toml"
        config.write_text("[sample]\nrules = []\n")
        words = [
            "worker",
            "--bootstrap-servers=127.0.0.1:9",
            "--tracking-uri=http://127.0.0.1:9",
            "--processes=2",
            "--group-instance-id=fleet",
            f"--config={config}",
            f"--health-port={self.port}",
            "--set=process.stop_s=3",
        ]
        self.process = GuardedProcess(
            [sys.executable, "-m", "spanferry_worker", *words], log=folder / "log"
        )

    async def ask(self, path: str) -> tuple[int, dict]:
        answer = await fetch(HOST, self.port, path)
        return (0, {}) if answer is None else (answer.status, orjson.loads(answer.body))

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(word) for word in path.read_text().split()] if path.exists() else []

    def names(self) -> set[str]:
        """Under which the processes join their group, as their command lines say."""
        lines = [Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in self.children()]
        flag = "--group-instance-id"
        return {words[-words[::-1].index(flag)] for words in lines if flag in words}

    async def answering(self) -> bool:
        """Both workers serve their pages."""
        answer = await fetch(HOST, self.port, "/metrics")
        text = b"" if answer is None else answer.body
        return all(b'write_traces_total{process="%d"} 0.0' % n in text for n in range(2))


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    some = Fleet(tmp_path)
    await asyncio.to_thread(some.process.start)
    async with asyncio.timeout(100):
        while not await some.answering():  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.1)
    yield some
    await asyncio.to_thread(some.process.stop)


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


async def test_it_speaks_for_all_and_restarts_what_dies(fleet: Fleet):
    assert await fleet.ask("/healthz") == (
        200,
        {
            "ok": True,
            "sick": [],
            "problems": {},
            "restarts": [0, 0],
        },
    )
    status, body = await fleet.ask("/readyz")
    assert (status, body["ok"], body["waiting"]) == (503, False, [0, 1])
    assert all("waits for store" in body["problems"][name] for name in "01")
    ports = [await fetch(HOST, fleet.port + number, "/healthz") for number in (1, 2)]
    assert None not in ports
    first, second = fleet.children()
    assert fleet.names() == {"fleet-0", "fleet-1"}
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(100):
        while sum((await fleet.ask("/healthz"))[1]["restarts"]) != 1:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.1)
        while not await fleet.answering():  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.1)
    assert second in fleet.children()
    assert first not in fleet.children()
    assert fleet.names() == {"fleet-0", "fleet-1"}, "who comes goes by the name of who went"
    page = await fetch(HOST, fleet.port, "/metrics")
    assert page is not None
    for line in (
        b'spanferry_supervisor_process_up{process="0"} 1.0',
        b'spanferry_supervisor_process_up{process="1"} 1.0',
        b'spanferry_supervisor_restarts_total{process="0"} 1.0',
        b'spanferry_worker_ready{process="1"} 0.0',
    ):
        assert line in page.body
    assert page.body.count(b"# TYPE process_resident_memory_bytes gauge") == 1


async def test_it_stops_all_and_ends_well(fleet: Fleet):
    children = fleet.children()
    await asyncio.to_thread(fleet.process.stop)
    assert not any(map(alive, children))
    assert "killed" not in fleet.process.log_tail()


async def test_workers_end_when_it_is_killed(fleet: Fleet):
    children = fleet.children()
    assert len(children) == 2
    await asyncio.to_thread(fleet.process.kill)
    await until(lambda: not any(map(alive, children)), timeout_s=20)


async def test_one_that_can_never_start_stops_all_with_exit_code_3(tmp_path: Path):
    """Its port is somebody else's: restarting it would not help, so the one that could run ends too."""
    fleet = Fleet(tmp_path)
    with socket.socket() as taken:
        taken.bind((HOST, fleet.port + 2))
        taken.listen()
        await asyncio.to_thread(fleet.process.start)
        await until(lambda: not fleet.process.running, timeout_s=60)
    assert fleet.process.exit_code == FATAL_EXIT_CODE
    assert f"health.port {fleet.port + 2}" in fleet.process.log_tail()


async def test_what_dies_again_and_again_is_restarted_later_and_later(caplog):
    """A worker that is called wrongly ends at once, and not with the code that says never."""
    settings = load_settings(
        {
            "bootstrap_servers": "127.0.0.1:9",
            "tracking_uri": "http://127.0.0.1:9",
            "health_port": 0,
            "process.processes": 1,
        },
        {},
    )
    supervisor = Supervisor(settings, ["no-such-command"], random.Random(7))
    running = asyncio.ensure_future(supervisor.run())

    def delays() -> list[float]:
        found = [re.search(r"restarted in ([\d.]+) s", line) for line in caplog.messages]
        return [float(match[1]) for match in found if match]

    await until(lambda: len(delays()) == 3 or running.done(), timeout_s=60)
    supervisor.stop()
    assert await running == 0
    for failures, delay_s in enumerate(delays()):
        assert 0.25 * 2**failures <= round(delay_s, 1) <= 0.5 * 2**failures


async def test_sighup_has_every_worker_read_its_sampling_policy_again(fleet: Fleet) -> None:
    before = fleet.children()
    async with asyncio.timeout(100):
        while True:
            os.kill(fleet.process.pid, signal.SIGHUP)
            answer = await fetch(HOST, fleet.port, "/metrics")
            text = "" if answer is None else answer.body.decode()
            read = r'sample_policy_loads_total\{process="(\d)",result="unchanged"\} [1-9]'
            if set(re.findall(read, text)) == {"0", "1"}:
                break
            await asyncio.sleep(0.2)
    assert fleet.children() == before
