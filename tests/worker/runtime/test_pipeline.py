"""The pipeline on doubles: everything arrives once, whatever fails in between."""

import asyncio

import pytest

from spanferry_schemas import End, encode
from spanferry_worker.stages.trace import FinishReason
from spanferry_worker.testing import MemoryBroker, MemoryLog, MemorySink
from tests.worker.events import feedback, fragment, header, number, send, span, whole
from tests.worker.runtime.harness import Harness, sample, until

pytestmark = pytest.mark.both_loops


async def test_traces_are_stored_and_committed():
    harness = Harness(partitions=3)
    for trace_id in range(200):
        send(harness.broker, whole(trace_id))
    async with harness.running() as worker:
        await until(lambda: len(harness.sink.stored) == 200 and harness.all_committed())
        assert worker.state == "ready"
        assert sample(worker, "write_traces_total") == 200
        assert sample(worker, "consume_records_total") == 200
        assert sample(worker, "assemble_finished_total", reason="complete") == 200
        assert sample(worker, "write_delay_seconds_count") == 200
    stored = harness.sink.stored[number(7)]
    assert (len(stored.spans), stored.complete, stored.writes) == (3, True, 1)
    assert harness.sink.calls < 200


async def test_a_trace_of_ten_megabytes_arrives_whole_in_chunks():
    harness = Harness(partitions=1)
    event = whole(1, 2, payload=5_000_000)
    records = send(harness.broker, event)
    assert records > 10
    async with harness.running():
        await until(harness.all_committed)
    assert harness.sink.stored[number(1)].spans == {each.span_id: each for each in event.spans}


async def test_nothing_is_committed_while_a_trace_is_open():
    harness = Harness(partitions=1, assemble__idle_s=20)
    send(harness.broker, whole(1))
    send(harness.broker, fragment(2, [span(1)]))
    send(harness.broker, whole(3))
    async with harness.running() as worker:
        await until(lambda: len(harness.sink.stored) == 2)
        await asyncio.sleep(0.1)
        assert list(harness.broker.committed.values()) == [1]
        send(harness.broker, fragment(2, [span(2)], end=End(2)))
        await until(harness.all_committed)
        assert sample(worker, "assemble_open_traces") == 0


async def test_an_incomplete_trace_is_written_when_idle_and_its_late_spans_are_added():
    harness = Harness()
    send(harness.broker, fragment(1, [span(1)]))
    async with harness.running():
        await until(lambda: number(1) in harness.sink.stored)
        send(harness.broker, fragment(1, [span(2)], end=End(2)))
        await until(harness.all_committed)
    stored = harness.sink.stored[number(1)]
    assert stored.reasons == [FinishReason.IDLE, FinishReason.LATE]
    assert (len(stored.spans), stored.complete) == (2, True)


async def test_feedback_arrives_by_trace_and_by_request():
    harness = Harness()
    send(harness.broker, whole(1))
    send(harness.broker, feedback(1, 1))
    harness.broker.produce(encode(feedback(2, None, "req-1")), key=number(5))
    async with harness.running():
        await until(harness.all_committed)
    assert list(harness.sink.stored[number(1)].assessments) == ["a-1"]
    assert list(harness.sink.orphans) == ["a-2"]


async def test_while_the_store_is_away_nothing_is_lost_and_nothing_dead():
    harness = Harness()
    harness.sink.transient_failures = 5
    harness.sink.after_failures = 2
    for trace_id in range(50):
        send(harness.broker, whole(trace_id))
    async with harness.running() as worker:
        await until(harness.all_committed)
        assert sample(worker, "write_retries_total") == 7
        assert worker.writer.failing_since_ms is None
    assert len(harness.sink.stored) == 50
    assert harness.letters.letters == []


async def test_a_store_that_asks_to_be_left_alone_is_left_alone():
    harness = Harness(partitions=1)
    harness.sink.transient_failures = 1
    harness.sink.retry_after_s = 0.2  # ten times what the backoff would have waited
    send(harness.broker, whole(1))
    began = asyncio.get_running_loop().time()
    async with harness.running():
        await until(harness.all_committed)
    assert asyncio.get_running_loop().time() - began >= 0.2
    assert harness.sink.calls == 2


async def test_a_store_that_is_away_at_the_start_is_waited_for():
    harness = Harness()
    harness.sink.open_failures = 3
    send(harness.broker, whole(1))
    settled: list[str] = []
    pipeline = harness.pipeline(settled=lambda: settled.append(pipeline.state))
    async with harness.running(pipeline) as worker:
        await until(lambda: worker.state.startswith("waits for store"))
        assert not settled
        await until(harness.all_committed)
    assert len(settled) == 1, "once the store is open"


async def test_what_does_not_decode_goes_to_the_dead_letters_and_the_rest_flows():
    harness = Harness(partitions=1)
    send(harness.broker, whole(1))
    harness.broker.produce(b"\x01junk", key=b"k", headers=[("mine", b"1")])
    harness.broker.produce(None, key=b"k")
    send(harness.broker, whole(2))
    harness.letters.transient_failures = 2
    async with harness.running() as worker:
        await until(harness.all_committed)
        assert sample(worker, "decode_rejected_total", reason="empty") == 1
        assert sample(worker, "dead_letters_total", reason="invalid") == 1
    first, second = harness.letters.letters
    assert (first.reason, first.record.value) == ("invalid", b"\x01junk")
    assert (first.record.key, first.record.headers) == (b"k", [("mine", b"1")])
    assert second.reason == "empty"
    assert len(harness.sink.stored) == 2


async def test_the_offset_of_a_dead_letter_moves_only_with_its_acknowledgement():
    harness = Harness(partitions=1)
    harness.letters.transient_failures = 10**9
    harness.broker.produce(b"\x01junk")
    send(harness.broker, whole(1))
    async with harness.running():
        await until(lambda: harness.sink.stored)
        await asyncio.sleep(0.1)
        assert harness.broker.committed.get(harness.broker.partitions[0], 0) == 0
        harness.letters.transient_failures = 0
        await until(harness.all_committed)


@pytest.mark.parametrize("how", ["refuses", "crashes", "names it"])
async def test_a_trace_that_the_store_refuses_is_found_and_dead_lettered_as_it_came(how):
    harness = Harness(partitions=1)
    harness.sink.names_refused = how == "names it"
    poison = {number(3), number(11)}

    def refuse(trace):
        if how == "crashes" and trace.trace_id in poison:
            raise KeyError("a fault of the store's own")
        return trace.trace_id in poison

    harness.sink.poison = refuse
    for trace_id in range(20):
        send(harness.broker, fragment(trace_id, [span(1)]))
        send(harness.broker, fragment(trace_id, [span(2)], end=End(2)))
    async with harness.running() as worker:
        await until(harness.all_committed)
        assert sample(worker, "write_refused_total") == 2
        assert (harness.sink.calls <= 5) == harness.sink.names_refused, "a name spares the search"
    assert len(harness.sink.stored) == 18
    originals = [each for each in harness.broker.records[0] if each.key in poison]
    assert [letter.record for letter in harness.letters.letters] == originals
    assert {letter.reason for letter in harness.letters.letters} == {"refused"}


async def test_a_refused_trace_whose_records_kafka_has_removed_is_rebuilt():
    harness = Harness(partitions=1)
    harness.sink.poison = lambda _: True
    harness.sink.blocked.clear()
    event = whole(1)
    send(harness.broker, event)
    async with harness.running() as worker:
        await until(lambda: harness.sink.calls)
        harness.broker.first_offsets[0] = 1
        harness.sink.blocked.set()
        await until(harness.all_committed)
        assert sample(worker, "dead_letters_lost_total") == 1
    [letter] = harness.letters.letters
    assert letter.record.key == number(1)
    assert b"span-3" in letter.record.value


async def test_intake_waits_while_the_worker_holds_too_much():
    harness = Harness(
        partitions=2,
        consume__held_bytes_max=60_000,
        consume__poll_bytes_max=10_000,
        consume__poll_records_max=5,
        assemble__bytes_max=30_000,
        decode__chunk_bytes_max=30_000,
        write__batch_traces_max=2,
    )
    harness.sink.blocked.clear()
    for trace_id in range(100):
        send(harness.broker, whole(trace_id, 1, payload=2_000))
    async with harness.running() as worker:
        await until(lambda: worker.intake.waiting)
        await asyncio.sleep(0.2)
        assert worker.intake.held_bytes < 80_000
        assert sample(worker, "consume_paused") == 1
        harness.sink.blocked.set()
        await until(harness.all_committed)
        assert not worker.intake.waiting
    assert len(harness.sink.stored) == 100


async def test_open_traces_beyond_the_bound_are_written_early_and_completed_later():
    harness = Harness(partitions=1, assemble__bytes_max=20_000, assemble__idle_s=60)
    for trace_id in range(30):
        send(harness.broker, fragment(trace_id, [span(1, payload=1_000)]))
    async with harness.running() as worker:
        await until(lambda: len(harness.sink.stored) > 5)
        assert worker.lanes.held_bytes <= 20_000
        for trace_id in range(30):
            send(harness.broker, fragment(trace_id, [span(2)], end=End(2)))
        await until(harness.all_committed)
    assert all(len(each.spans) == 2 and each.complete for each in harness.sink.stored.values())


async def test_a_graceful_stop_writes_and_commits_what_is_decided():
    harness = Harness(partitions=1, write__linger_s=60, commit__interval_s=60, assemble__idle_s=60)
    for trace_id in range(5):
        send(harness.broker, whole(trace_id))
    send(harness.broker, fragment(9, [span(1)]))
    async with harness.running() as worker:
        await until(lambda: worker.writer.held_bytes)
        assert not harness.sink.stored
    assert len(harness.sink.stored) == 5
    assert list(harness.broker.committed.values()) == [5]


async def test_a_stop_may_be_told_to_leave_nothing_open():
    harness = Harness(
        partitions=1, assemble__idle_s=60, assemble__write_open_at_stop=True, commit__interval_s=60
    )
    send(harness.broker, fragment(9, [span(1)]))
    async with harness.running() as worker:
        await until(lambda: worker.lanes.held_bytes)
    assert harness.sink.stored[number(9)].reasons == [FinishReason.DRAIN]
    assert harness.all_committed()


async def test_a_stop_does_not_wait_for_ever_for_a_store_that_is_away():
    harness = Harness(partitions=1, process__stop_s=0.3)
    harness.sink.transient_failures = 10**9
    send(harness.broker, whole(1))
    async with harness.running() as worker:
        await until(lambda: worker.writer.failing_since_ms)
    assert harness.broker.committed == {}


async def test_a_stop_while_waiting_for_the_store_ends_at_once():
    harness = Harness()
    harness.sink.open_failures = 10**9
    async with harness.running() as worker:
        await until(lambda: worker.state.startswith("waits for store"))


async def test_a_broker_that_fails_again_and_again_is_joined_anew():
    harness = Harness(partitions=1)
    log = MemoryLog(harness.broker)
    async with harness.running(harness.pipeline(log=log)):
        await until(lambda: log.opened == 1)
        log.poll_failures = 5
        await until(lambda: log.opened == 2)
        send(harness.broker, whole(1))
        await until(lambda: harness.sink.stored and harness.all_committed())


async def test_a_consumer_that_stands_is_made_anew():
    harness = Harness(partitions=1, consume__stall_s=0.2)
    log = MemoryLog(harness.broker)
    log.deaf = True
    send(harness.broker, whole(1))
    async with harness.running(harness.pipeline(log=log)) as worker:
        await until(lambda: log.opened == 2)
        log.deaf = False
        await until(harness.all_committed)
        assert sample(worker, "consume_stalls_total", stage="consume") >= 1


async def test_a_write_that_never_returns_is_reported():
    harness = Harness(partitions=1, consume__stall_s=0.2)
    harness.sink.blocked.clear()
    send(harness.broker, whole(1))
    async with harness.running() as worker:
        await until(lambda: worker.watch.stuck)
        harness.sink.blocked.set()
        await until(lambda: worker.watch.stuck is None)


async def test_a_partition_that_goes_back_is_read_anew():
    harness = Harness(partitions=1)
    log = MemoryLog(harness.broker)
    for trace_id in range(3):
        send(harness.broker, whole(trace_id))
    async with harness.running(harness.pipeline(log=log)):
        await until(harness.all_committed)
        # Kafka elects a broker that had only the first record.
        del harness.broker.records[0][1:]
        log._positions[harness.broker.partitions[0]] = 0
        harness.broker.committed[harness.broker.partitions[0]] = 0
        send(harness.broker, whole(7))
        await until(lambda: number(7) in harness.sink.stored and harness.all_committed())
        assert log.opened == 2


async def test_the_rest_of_the_loop_runs_while_records_never_run_out():
    harness = Harness(partitions=1, consume__poll_records_max=1, write__linger_s=0)
    for trace_id in range(300):
        send(harness.broker, whole(trace_id, 1))
    async with harness.running() as worker:
        await until(lambda: harness.sink.stored)
        assert sample(worker, "consume_records_total") < 200
        await until(harness.all_committed)


async def test_gaps_and_repeats_of_the_producers_are_counted():
    harness = Harness(partitions=1)
    for trace_id, sequence in enumerate((0, 1, 5, 5)):
        headers = [header(sequence, b"observed")]
        harness.broker.produce(encode(whole(trace_id)), key=number(trace_id), headers=headers)
    async with harness.running() as worker:
        await until(harness.all_committed)
        await worker.watch.look()
        assert sample(worker, "consume_sequence_missing_total") == 3
        assert sample(worker, "consume_sequence_repeated_total") == 1
        assert sample(worker, "consume_lag_records", partition="0") == 0


async def test_several_writes_at_once_never_share_a_trace():
    harness = Harness(partitions=2, write__batch_traces_max=3)
    harness.sink = MemorySink(concurrency=4)  # asserts it
    harness.sink.delay_s = 0.01
    for round_ in range(5):
        for trace_id in range(40):
            send(
                harness.broker,
                fragment(trace_id, [span(round_ + 1)], end=End(1) if round_ else None),
            )
    async with harness.running():
        await until(harness.all_committed)
    assert all(len(each.spans) == 5 for each in harness.sink.stored.values())


async def test_a_backlog_is_read_in_its_own_time():
    """Records an hour old, an hour apart from the wall: nothing in them may be called idle."""
    harness = Harness(partitions=1, assemble__idle_s=5, consume__poll_records_max=1)
    hour_ago_ms = harness.clock.now_ms() - 3_600_000
    send(harness.broker, fragment(1, [span(1)]), timestamp_ms=hour_ago_ms)
    for step in range(20):
        send(harness.broker, whole(100 + step), timestamp_ms=hour_ago_ms + step)
    send(harness.broker, fragment(1, [span(2)], end=End(2)), timestamp_ms=hour_ago_ms + 4_000)
    async with harness.running():
        await until(harness.all_committed)
    assert harness.sink.stored[number(1)].reasons == [FinishReason.COMPLETE]


def test_the_broker_double_keeps_its_topic():
    assert MemoryBroker(Harness().clock, topic="t", partitions=2).partitions[1] == ("t", 1)
