"""The end with a full buffer: in time, and what is said to be spooled and to be lost is just that."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
import pytest

from spanferry.client import Stats
from tests.processes.account import arrived, numbered
from tests.processes.in_time import in_time
from tests.processes.program import PROGRAMS, program
from tests.processes.test_ending import EXIT_S, frozen
from tests.services.kafka import KafkaServer
from tests.spool.test_bad_days import replay

pytestmark = [pytest.mark.kafka, pytest.mark.chaos]

SAID = re.compile(
    r"(\d+) traces were not acknowledged by Kafka within 3.0 s: they are in the spool "
    r"[^;]*(?:; (\d+) more are lost)?$"
)
BUFFER_BYTES = 64 * 1024 * 1024


def account_in(line: str) -> Stats:
    return msgspec.json.decode(line[line.index("{") :], type=Stats)


@pytest.mark.parametrize(
    ("size", "away", "whole"),
    [(500, frozen, False), (5_000, frozen, True)],
    ids=["tiny traces, as many as a busy machine writes", "small ones, all of them"],
)
def test_a_full_buffer_is_in_the_spool_when_the_process_ends(
    kafka: KafkaServer,
    topic: str,
    environment: dict[str, str],
    tmp_path: Path,
    size: int,
    away: Callable[[], AbstractContextManager[str]],
    whole: bool,
) -> None:
    environment |= {"SPANFERRY_SPOOL_DIR": str(tmp_path), "SPANFERRY_EXIT_TIMEOUT_S": str(EXIT_S)}
    with away() as servers:
        environment["SPANFERRY_BOOTSTRAP_SERVERS"] = servers
        with program(f"{PROGRAMS}.full", str(size), environment=environment) as running:
            full = account_in(running.wait_for("full "))
            assert running.ended() == 0, running.output
    assert in_time(running.output, EXIT_S), running.output
    assert full.buffered_bytes > BUFFER_BYTES * 0.9
    (said,) = [line for line in running.output.splitlines() if "not acknowledged" in line]
    match = SAID.search(said)
    assert match is not None, said
    spooled, lost = int(match[1]), int(match[2] or 0)
    account = account_in(running.wait_for("at the end"))
    assert account.traces == full.traces == account.traces_spooled + account.traces_buffered
    assert account.traces_buffered == lost
    # The spool takes what it is to take all the time, also between that look and the end's begin.
    assert account.traces_spooled * 0.9 <= spooled <= account.traces_spooled
    replay(kafka, topic, tmp_path)
    found = arrived(kafka.bootstrap_servers, topic)
    assert len(found) == account.traces_spooled
    assert set(found.values()) == {1}
    if whole:
        assert lost == 0, f"the disk had room, and the time was not enough: {running.output}"
        assert found == numbered("trace", full.traces)
