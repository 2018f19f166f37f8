"""From the buffer into a real Kafka, on good days and bad ones. Every trace is accounted for."""

import json
import logging
import subprocess
import sys
import time
import uuid
from collections import Counter

import pytest

import spanferry
from spanferry.client import Stats, disable, enable, flush, stats
from tests.producer.topic import read_fragments, read_topic
from tests.producer.traffic import a_trace, send
from tests.services.kafka import KafkaServer
from tests.services.process import free_port

pytestmark = pytest.mark.kafka


@pytest.fixture
def topic(kafka: KafkaServer) -> str:
    return kafka.create_topic(f"traces-{uuid.uuid4().hex[:8]}", 3)


@pytest.fixture(autouse=True)
def _switched_off():
    yield
    disable()


def adds_up(account: Stats) -> bool:
    settled = account.traces_sent + account.traces_dropped + account.traces_buffered
    return account.traces == settled and account.parcels_dropped == sum(account.dropped.values())


def run_app(kafka: KafkaServer, topic: str, mode: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.producer.traffic", kafka.bootstrap_servers, topic, mode],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )


def test_every_trace_arrives_once_in_its_place(kafka, topic):
    enable(bootstrap_servers=kafka.bootstrap_servers, topic=topic)
    send(500, 10_000)
    assert flush(100)
    records = read_topic(kafka.bootstrap_servers, topic)
    assert len(records) == len({record.key for record in records}) == 500
    assert {record.partition for record in records} == {0, 1, 2}
    account = stats()
    assert (account.traces_sent, account.traces_buffered, account.buffered_bytes) == (500, 0, 0)
    assert adds_up(account)


def test_sequences_have_neither_gap_nor_repeat(kafka, topic):
    from spanferry_schemas import read_meta

    enable(bootstrap_servers=kafka.bootstrap_servers, topic=topic)
    for _ in range(10):
        send(20, 2_000)
        assert flush(100)
    by_partition: dict[int, list[int]] = {}
    for record in read_topic(kafka.bootstrap_servers, topic):
        by_partition.setdefault(record.partition, []).append(read_meta(record.headers).sequence)
    assert all(found == list(range(len(found))) for found in by_partition.values())


def test_the_process_reports_at_its_end_what_it_has_made_and_dropped(kafka, topic):
    """One record without a number, and none where nothing was made."""
    from spanferry_schemas import Report, decode, read_meta

    enable(bootstrap_servers=kafka.bootstrap_servers, topic=topic, buffer_bytes=1_000_000)
    disable()
    enable(bootstrap_servers=kafka.bootstrap_servers, topic=topic, buffer_bytes=1_000_000)
    send(20, 2_000)
    assert flush(100)
    send(1, 3_000_000)  # more than the buffer takes
    disable()
    records = read_topic(kafka.bootstrap_servers, topic)
    [report] = [one for one in map(decode, (r.value for r in records)) if isinstance(one, Report)]
    numbered = [record for record in records if read_meta(record.headers) is not None]
    assert len(numbered) == len(records) - 1 == 20
    assert {read_meta(one.headers).producer_id for one in numbered} == {report.producer_id}
    assert dict(report.acknowledged) == Counter(record.partition for record in numbered)
    assert (report.dropped, report.last) == ({"oversize": 1}, True)
    assert report.started_ns < report.made_ns


def test_while_something_changes_reports_come_now_and_then(kafka, topic, monkeypatch):
    from spanferry import reporting
    from spanferry_schemas import Report, decode

    monkeypatch.setattr(reporting, "_REPORT_S", 0.3)
    enable(bootstrap_servers=kafka.bootstrap_servers, topic=topic)

    def reports() -> list[Report]:
        events = [decode(record.value) for record in read_topic(kafka.bootstrap_servers, topic)]
        return [event for event in events if isinstance(event, Report)]

    for expected in (1, 2):
        send(10)
        assert flush(100)
        deadline = time.monotonic() + 150
        while len(reports()) < expected and time.monotonic() < deadline:
            time.sleep(0.1)
    time.sleep(1)
    found = sorted(reports(), key=lambda report: report.made_ns)
    assert sum(count for _, count in found[-1].acknowledged) == 20
    assert len(found) in {2, 3}, "only where something has changed"
    assert not any(report.last for report in found)


def test_the_process_says_what_its_traces_do_not_say_themselves(kafka, topic):
    said = {"app_version": "2.4", "region": "eu", "mlflow.source.name": "chat"}
    enable(bootstrap_servers=kafka.bootstrap_servers, topic=topic, metadata=said)
    with spanferry.start_span("root"):
        spanferry.update_current_trace(metadata={"region": "us"})
        headers = spanferry.get_tracing_context_headers_for_http_request()
    with (
        spanferry.set_tracing_context_from_http_request_headers(headers),
        spanferry.start_span("of another service's trace"),
    ):
        spanferry.update_current_trace(tags={"t": "t"})
    assert flush(100)
    own, others = [one.trace for one in read_fragments(kafka.bootstrap_servers, topic)]
    assert own.metadata["app_version"] == "2.4"
    assert own.metadata["region"] == "us"
    assert own.metadata["mlflow.source.name"] == "chat"
    assert own.metadata["mlflow.source.type"] == "LOCAL"
    assert others.metadata == {}


def test_metadata_does_not_need_the_collected_environment(kafka, topic):
    servers = kafka.bootstrap_servers
    enable(bootstrap_servers=servers, topic=topic, metadata={"a": 1}, collect_environment=False)
    send(1)
    assert flush(100)
    (fragment,) = read_fragments(servers, topic)
    assert fragment.trace.metadata == {"a": "1"}


def test_giants_arrive_whole(kafka, topic):
    enable(bootstrap_servers=kafka.bootstrap_servers, topic=topic)
    send(20)
    send(1, 10_000_000)
    send(20)
    assert flush(100)
    fragments = read_fragments(kafka.bootstrap_servers, topic)
    sizes = [len(span.attributes["mlflow.spanInputs"]) for one in fragments for span in one.spans]
    assert sorted(sizes)[-2:] == [5_000_002, 5_000_002]
    assert len(sizes) == 82


def test_a_topic_that_takes_less_than_we_think_loses_nothing(kafka, caplog):
    small = kafka.create_topic(f"small-{uuid.uuid4().hex[:8]}", 2, {"max.message.bytes": "60000"})
    with caplog.at_level(logging.WARNING, "spanferry"):
        enable(bootstrap_servers=kafka.bootstrap_servers, topic=small, compression="none")
        send(30, 20_000)
        send(3, 2_000_000)
        send(30, 20_000)
        assert flush(60)
    fragments = read_fragments(kafka.bootstrap_servers, small)
    assert len({one.trace_id for one in fragments}) == 63
    assert sum(len(one.spans) for one in fragments if one.end) >= 63
    assert "Raise its max.message.bytes" in caplog.text
    assert adds_up(stats())
    assert stats().traces_dropped == 0


def test_a_broker_that_is_not_there_costs_the_app_nothing_and_is_said_once(caplog):
    with caplog.at_level(logging.INFO):
        enable(bootstrap_servers=f"127.0.0.1:{free_port()}", buffer_bytes=1_000_000)
        send(200, 10_000)
        assert not flush(1.5)
    account = stats()
    assert adds_up(account)
    assert not account.connected
    assert account.traces_buffered > 50
    assert account.traces_dropped == account.dropped["buffer_full"] > 50
    assert account.buffered_bytes <= 1_000_000
    assert "KafkaConnectionError" in (account.last_error or "")
    lines = [record.getMessage() for record in caplog.records]
    assert sum("traces wait" in line for line in lines) == 1
    assert not [record for record in caplog.records if record.name.startswith("aiokafka")]


def test_a_missing_topic_is_named_with_its_remedy(kafka):
    enable(bootstrap_servers=kafka.bootstrap_servers, topic="no-such-topic")
    send(1)
    assert not flush(1.0)
    deadline = time.monotonic() + 150
    while stats().last_error is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "spanferry topics create" in (stats().last_error or "")


def test_leaving_the_program_flushes(kafka, topic):
    done = run_app(kafka, topic, "exit")
    assert len(read_fragments(kafka.bootstrap_servers, topic)) == 100, done.stderr


@pytest.mark.parametrize(("mode", "total"), [("fork", 120), ("fork_fresh", 100)])
def test_forked_children_send_their_own_and_only_their_own(kafka, topic, mode, total):
    done = run_app(kafka, topic, mode)
    fragments = read_fragments(kafka.bootstrap_servers, topic)
    assert len(fragments) == len({one.trace_id for one in fragments}) == total, done.stderr
    by_process: dict[str, int] = {}
    for one in fragments:
        by_process[one.trace.tags["pid"]] = by_process.get(one.trace.tags["pid"], 0) + 1
    assert sorted(by_process.values())[-2:] == [50, 50]


@pytest.mark.chaos
@pytest.mark.parametrize("trouble", ["kill", "pause"])
def test_kafka_away_for_a_while_loses_nothing(topic, trouble):
    with KafkaServer() as broker:
        broker.create_topic(topic, 3)
        enable(bootstrap_servers=broker.bootstrap_servers, topic=topic)
        send(100)
        assert flush(100)
        send(50)
        getattr(broker, trouble)()
        slowest = 0.0
        for _ in range(300):
            parcel = a_trace()
            started = time.perf_counter()
            _put(parcel)
            slowest = max(slowest, time.perf_counter() - started)
            time.sleep(0.01)
        during = stats()
        assert adds_up(during)
        assert during.traces_buffered >= 300
        assert slowest < 1.0, "the app's thread waited for Kafka"
        broker.resume() if trouble == "pause" else broker.start()
        assert flush(60), stats()
        assert stats().traces_sent == 450
        fragments = read_fragments(broker.bootstrap_servers, topic)
        assert len({one.trace_id for one in fragments}) == 450


def _put(parcel):
    from spanferry import outlet

    current = outlet.current()
    assert current is not None
    current.put(parcel)


def test_exit_without_kafka_is_bounded_and_reported():
    code = (
        "from tests.producer.traffic import enable, send\n"
        f"enable(bootstrap_servers='127.0.0.1:{free_port()}', exit_timeout_s=1.0)\n"
        "send(5)\n"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert time.monotonic() - started < 10
    assert "5 traces" in done.stderr
    assert "are lost" in done.stderr


def test_switching_off_and_on_again(kafka, topic):
    done = run_app(kafka, topic, "disable")
    assert json.loads(done.stdout)["enabled"] is False
    assert len(read_fragments(kafka.bootstrap_servers, topic)) == 100
    enable(bootstrap_servers=kafka.bootstrap_servers, topic=topic)
    send(1)
    enable(bootstrap_servers=kafka.bootstrap_servers, topic=topic)
    send(1)
    assert flush(100)
    assert stats().traces == 1
    assert len(read_fragments(kafka.bootstrap_servers, topic)) == 102
