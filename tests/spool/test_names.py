"""What goes out of the spool keeps the name under which it went, whoever sends it the next time."""

import asyncio
from pathlib import Path

from spanferry.buffer import Buffer
from spanferry.lanes import Lanes, Ledger, Receipt
from spanferry.settings import DropPolicy, Settings
from spanferry.spool.entries import Entry, Origin, SpooledRecord
from spanferry.spool.spool import Spool
from spanferry.spooling import Spooler
from spanferry.staging import Breath, Stager
from tests.spool.made import entry, number_of, record, spool_in

PRODUCER = b"producer"


def spooler_of(spool: Spool) -> tuple[Spooler, Lanes]:
    """With nothing in its buffer, and two partitions."""

    def settled(receipt: Receipt) -> None:
        assert receipt.ticket is not None
        receipt.ticket.settle()

    buffer, lanes, ledger = Buffer(1_000_000, DropPolicy.NEWEST), Lanes(), Ledger(settled)
    lanes.open([0, 1])
    settings = Settings(bootstrap_servers="none:1", collect_environment=False)
    stager = Stager(settings, buffer, lanes, ledger, Breath())
    return Spooler(spool, buffer, stager, lanes, ledger, Breath()), lanes


def left(folder: Path) -> list[tuple[int, Origin | None]]:
    """What the next process finds there."""
    spool = spool_in(folder)
    spool.tick()
    found = []
    while given := spool.next():
        found.append((number_of(given[1]), given[1].records[0].origin))
    spool.close()
    return sorted(found, key=lambda one: one[0])


def test_what_was_in_a_batch_when_its_process_ended_keeps_its_name(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    for number in range(8):
        spool.put(entry(number))
    spooler, lanes = spooler_of(spool)
    out: list[tuple[int, Origin | None]] = []

    async def a_session_that_is_cut_off() -> None:
        await spooler.replay()
        for lane in lanes:
            batch = [lane.pop() for _ in range(2)]
            for one in batch:
                assert one is not None
                number = int.from_bytes(one.record.key, "big")
                out.append((number, Origin(PRODUCER, lane.partition, one.sequence)))
            lane.put_back([one for one in batch if one is not None])
        await spooler.write_names(PRODUCER)

    asyncio.run(a_session_that_is_cut_off())
    spool.close()
    named = dict(out)
    assert len(named) == 4
    assert left(tmp_path) == [(number, named.get(number)) for number in range(8)]


def test_what_is_left_of_an_entry_whose_beginning_has_arrived_is_all_that_is_kept(
    tmp_path: Path,
) -> None:
    """Nothing of the rest was in a batch; read again as a whole, its beginning would come twice."""
    spool = spool_in(tmp_path)
    parts = [SpooledRecord(record(1, 100 + part)) for part in range(3)]
    spool.put(Entry(parts, ends_trace=True))
    spooler, lanes = spooler_of(spool)

    async def a_session_that_is_cut_off() -> None:
        await spooler.replay()
        (lane,) = [lane for lane in lanes if lane.waiting]
        first = lane.pop()
        assert first is not None
        spooler._ledger.finish(first.receipt)  # acknowledged
        await spooler.write_names(PRODUCER)

    asyncio.run(a_session_that_is_cut_off())
    spool.close()
    heir = spool_in(tmp_path)
    heir.tick()
    found = heir.next()
    assert found is not None
    assert [len(one.record.value) for one in found[1].records] == [101, 102]
    assert found[1].ends_trace
    assert heir.next() is None


def test_a_full_spool_keeps_it_without_its_name(tmp_path: Path) -> None:
    spool = spool_in(tmp_path, spool_bytes=1_048_576)
    number = 0
    while spool.put(entry(number, 100_000)):
        number += 1
    assert number > 5
    spooler, lanes = spooler_of(spool)

    async def a_session_that_is_cut_off() -> None:
        await spooler.replay()
        for lane in lanes:
            one = lane.pop()
            assert one is not None
            lane.put_back([one])
        await spooler.write_names(PRODUCER)

    asyncio.run(a_session_that_is_cut_off())
    spool.close()
    assert [one for one, _ in left(tmp_path)] == list(range(number))
