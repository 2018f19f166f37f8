"""Addresses, and why they cannot be reached."""

import asyncio
import socket

import pytest

from spanferry_worker.doctor.findings import Area, Level
from spanferry_worker.doctor.reach import (
    Address,
    Reach,
    Reached,
    judge_reach,
    parse_servers,
    reach,
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("text", "addresses", "wrong"),
    [
        ("kafka:9092", [Address("kafka", 9092)], []),
        (" a:1 , b:2 ,", [Address("a", 1), Address("b", 2)], []),
        ("[::1]:9092", [Address("::1", 9092)], []),
        ("kafka", [], ["kafka"]),
        ("kafka:", [], ["kafka:"]),
        (":9092", [], [":9092"]),
        ("kafka:70000", [], ["kafka:70000"]),
        ("kafka:0", [], ["kafka:0"]),
        ("kafka:٣", [], ["kafka:٣"]),
        ("http://kafka:9092,ok:1", [Address("ok", 1)], ["http://kafka:9092"]),
        ("", [], []),
    ],
)
def test_bootstrap_servers(text: str, addresses: list[Address], wrong: list[str]) -> None:
    assert parse_servers(text) == (addresses, wrong)


async def test_who_listens_is_reached() -> None:
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        result = await reach(Address("127.0.0.1", port), 5)
    assert result.reached is Reached.CONNECTED
    finding = judge_reach(result, Area.BROKER, "the broker")
    assert finding.level is Level.GOOD
    assert finding.ms is not None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_port_without_anybody_is_refused(host: str) -> None:
    result = await reach(Address(host, free_port()), 5)
    assert result.reached is Reached.REFUSED


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 70 + ".invalid", "ü..x"])
async def test_a_name_that_nobody_knows(host: str) -> None:
    result = await reach(Address(host, 9092), 20)
    assert result.reached is Reached.UNKNOWN_NAME


async def test_silence_is_a_timeout() -> None:
    with socket.socket() as full, socket.socket() as first:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.connect(full.getsockname())
        second = socket.socket()
        second.setblocking(False)
        second.connect_ex(full.getsockname())
        with second:
            result = await reach(Address(*full.getsockname()), 0.2)
    assert result.reached is Reached.TIMEOUT


@pytest.mark.parametrize("reached", [each for each in Reached if each is not Reached.CONNECTED])
def test_every_failure_has_a_remedy(reached: Reached) -> None:
    result = Reach(Address("kafka", 9092), reached, 1000, "why")
    finding = judge_reach(result, Area.MLFLOW, "MLflow")
    assert finding.level is Level.PROBLEM
    assert finding.area is Area.MLFLOW
    assert "kafka" in finding.text
    assert finding.remedy
