"""The spool on a real disk of 4 MB that is full: what the app notices, and what arrives."""

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from spanferry.client import Stats
from tests.processes.program import Program, program
from tests.services.kafka import KafkaServer
from tests.spool import small_disk
from tests.spool.full_disk import BUFFER_BYTES, PAGE_BYTES, Answer
from tests.spool.test_bad_days import arrived

pytestmark = [pytest.mark.kafka, pytest.mark.chaos]

DISK_BYTES = 4 * 1024 * 1024
WAITS_S = 1.0
"""Whoever waits for a disk or for Kafka waits for longer."""

Ask = Callable[[str], Answer]


@pytest.fixture(scope="module")
def broker() -> Iterator[KafkaServer]:
    """One of our own, because it is away at first."""
    with KafkaServer() as server:
        yield server


@pytest.fixture
def topic(broker: KafkaServer) -> str:
    """A topic of a broker that has gone since."""
    broker.start()
    made = broker.create_topic(f"full-{uuid.uuid4().hex[:8]}", 3)
    broker.stop()
    return made


@pytest.fixture
def app(broker: KafkaServer, topic: str, tmp_path: Path, mode: str) -> Iterator[Program]:
    try:
        small_disk.check(tmp_path)
    except RuntimeError as error:
        pytest.fail(str(error))
    disk = ["tests.spool.small_disk", str(tmp_path), str(DISK_BYTES)]
    words = ["tests.spool.full_disk", broker.bootstrap_servers, topic, str(tmp_path), mode]
    with program(*disk, *words) as running:
        yield running
    assert not list(tmp_path.iterdir()), "the disk was not a disk of its own"


@pytest.fixture
def ask(app: Program) -> Ask:
    """Tell the app something and wait for its answer."""
    asked: Counter[str] = Counter()

    def ask(line: str) -> Answer:
        command = line.split(maxsplit=1)[0]
        asked[command] += 1
        app.tell(line)
        said = app.wait_for(f"{command} {{", asked[command])
        answer = msgspec.json.decode(said.removeprefix(command), type=Answer)
        assert answer.slowest_s < WAITS_S
        account_adds_up(answer.stats)
        return answer

    return ask


def account_adds_up(stats: Stats) -> None:
    settled = stats.traces_sent + stats.traces_spooled + stats.traces_dropped
    assert stats.traces == settled + stats.traces_buffered
    assert stats.traces_dropped == stats.dropped["buffer_full"] == stats.parcels_dropped
    assert stats.buffered_bytes <= BUFFER_BYTES
    assert stats.spool_corrupt_bytes == 0


def ended_with(app: Program, broker: KafkaServer, topic: str, last: Stats) -> None:
    """Everything but what was dropped is there, once; and the app has never complained."""
    app.tell("end")
    assert app.ended() == 0, app.output
    found = arrived(broker, topic)
    assert set(found.values()) == {1}
    assert len(found) == last.traces - last.traces_dropped
    assert len(found) == last.traces_sent + last.traces_spooled
    assert "Traceback" not in app.output
    assert app.output.count("nothing can be spooled") == 1
    assert "corrupt" not in app.output.replace("spool_corrupt_bytes", "")


@pytest.mark.parametrize("mode", ["overflow", "always"])
def test_a_full_disk_costs_the_app_nothing_and_no_trace_that_was_spooled(
    app: Program, ask: Ask, broker: KafkaServer, topic: str, mode: str
) -> None:
    ask("send 3000")  # 12 MB: the disk, and memory three times over
    full = ask("refused 2")
    assert full.free_bytes < 2 * PAGE_BYTES
    assert full.stats.spool_bytes_put > DISK_BYTES / 2
    assert full.stats.traces_spooled > 500
    assert full.stats.traces_dropped > 500
    assert full.stats.traces_buffered > 100
    later = ask("send 100")  # and nothing takes them
    assert later.stats.traces_dropped == full.stats.traces_dropped + 100
    broker.start()
    there = ask("arrive")
    assert there.stats.spool_parcels_replayed == there.stats.parcels_spooled
    assert there.free_bytes > DISK_BYTES * 0.9
    again = ask("send 100")
    assert again.stats.traces_dropped == there.stats.traces_dropped
    last = ask("arrive")
    left = {one.partition(".")[0] for one in last.files if not one.endswith(".lock")}
    assert len(left) <= (
        mode == "always"
    )  # the segment into which the next trace goes, and its marks
    ended_with(app, broker, topic, last.stats)


@pytest.mark.parametrize("mode", ["full-overflow", "overflow", "always"])
def test_a_disk_that_was_full_takes_again(
    app: Program, ask: Ask, broker: KafkaServer, topic: str, mode: str
) -> None:
    """Somebody else has filled it before the app begins, or before its first trace comes."""
    if not mode.startswith("full-"):
        ask("fill")
    ask("send 400")
    full = ask("refused 4")
    assert full.stats.traces_spooled == 0
    assert full.stats.traces_buffered + full.stats.traces_dropped == 400
    assert not [one for one in full.files if one.endswith((".open", ".seg"))], "they count as full"
    assert len(full.files) <= 2, "attempts leave nothing behind"
    assert full.descriptors <= 1  # the lock
    ask("free")
    taken = ask("spooled")
    assert taken.stats.traces_spooled == full.stats.traces_buffered
    ask("fill")
    ask("send 1000")
    dropped = ask("refused 1").stats.traces_dropped
    assert dropped > full.stats.traces_dropped
    ask("free")
    assert ask("spooled").stats.traces_dropped == dropped
    broker.start()
    ended_with(app, broker, topic, ask("arrive").stats)
