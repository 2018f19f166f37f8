"""From the dead letters back into MLflow: found, replayed once what killed them is mended, stored once."""

import asyncio
import json
import time
import uuid
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from mlflow import MlflowClient

from spanferry_schemas import TracePart, encode, split_value, trace_id_text
from spanferry_worker import cli
from tests.end_to_end.conftest import Pipeline
from tests.producer.topic import read_topic
from tests.worker.events import End, fragment, header, span

pytestmark = [pytest.mark.kafka, pytest.mark.mlflow]

GARBAGE = b"not a record\x00\xff"
SMALL, CUT = uuid.uuid4().int, uuid.uuid4().int


class Operator:
    """Whoever is on call, at the command line."""

    def __init__(self, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
        self._pipeline = pipeline
        self._capsys = capsys
        self.err = ""

    def dlq(self, *words: str) -> tuple[int, str]:
        self._capsys.readouterr()
        place = (
            f"--bootstrap-servers={self._pipeline.kafka.bootstrap_servers}",
            f"--topic={self._pipeline.topic}",
        )
        code = cli.main(["dlq", *words, *place])
        out, self.err = self._capsys.readouterr()
        return code, out

    def listed(self, *words: str) -> list[dict[str, Any]]:
        _, out = self.dlq("list", "--json", *words)
        return [json.loads(line) for line in out.splitlines()]

    def wait_for(self, count: int, *words: str) -> list[dict[str, Any]]:
        """The letters, once there are so many."""
        deadline = time.monotonic() + 150
        while len(found := self.listed(*words)) < count and time.monotonic() < deadline:
            time.sleep(0.3)
        assert len(found) == count
        return found


@pytest.fixture
def operator(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> Operator:
    return Operator(pipeline, capsys)


def traces(experiment_id: str) -> list[tuple[bytes, list[bytes]]]:
    """A trace in one record, and one that is cut into pieces: keys and values."""
    made = []
    for trace_id, size in ((SMALL, 100), (CUT, 5_000)):
        spans = [span(n + 1, parent=1 if n else None, payload=size) for n in range(3)]
        part = TracePart(experiment_id=experiment_id, tags={"size": str(size)})
        event = fragment(trace_id, spans, end=End(3), part=part)
        pieces = split_value(
            encode(event), trace_id=event.trace_id, group_id=b"group-id", record_bytes_max=4_000
        )
        made.append((event.trace_id, list(pieces)))
    return made


def produce(pipeline: Pipeline, key: bytes, values: list[bytes]) -> None:
    async def send() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=pipeline.kafka.bootstrap_servers)
        await producer.start()
        try:
            for value in values:
                headers = [header(), ("mine", b"kept")]
                await producer.send_and_wait(pipeline.topic, value, key=key, headers=headers)
        finally:
            await producer.stop()

    asyncio.run(send())


def stored(pipeline: Pipeline, experiment_id: str, count: int) -> dict[str, Any]:
    """Every trace of an experiment by its id, once so many have all of their spans."""
    client = MlflowClient(pipeline.tracking_uri)
    deadline = time.monotonic() + 150
    while True:
        found = client.search_traces(locations=[experiment_id], include_spans=True)
        whole = {one.info.trace_id: one for one in found if len(one.data.spans) == 3}
        if len(whole) >= count or time.monotonic() > deadline:
            assert len(found) == len(whole) == count
            return whole
        time.sleep(0.3)


def test_traces_without_an_experiment_are_replayed_once_it_is_there(pipeline, operator):
    client = MlflowClient(pipeline.tracking_uri)
    missing = str(int(client.create_experiment(f"before-{uuid.uuid4()}")) + 1)
    worker = pipeline.worker()
    made = traces(missing)
    for key, values in made:
        produce(pipeline, key, values)
    pieces = len(made[1][1])
    assert pieces > 3
    produce(pipeline, b"no trace id", [GARBAGE])

    letters = operator.wait_for(pieces + 2)
    assert {one["reason"] for one in letters} == {"no_experiment", "unknown_version"}
    small, cut = (trace_id_text(key) for key, _ in made)
    [alone] = operator.listed(f"--trace-id={small}")
    assert alone["attempts"] == 1
    assert alone["origin"]["topic"] == pipeline.topic
    assert len(operator.listed(f"--trace-id={cut}")) == pieces
    assert len(operator.listed(f"--experiment={missing}")) == pieces + 1
    [garbage] = operator.listed("--reason=unknown_version")
    code, shown = operator.dlq("show", f"{garbage['partition']}:{garbage['offset']}")
    assert code == 0
    assert "cannot be decoded, unknown_version" in shown
    assert "6e 6f 74 20 61" in shown
    assert "mine: kept" in shown

    assert operator.dlq("replay", "--dry-run", f"--experiment={missing}")[0] == 0
    assert client.create_experiment(f"wanted-{uuid.uuid4()}") == missing
    time.sleep(3)  # the worker remembers for 2 s what is missing
    before = len(records(pipeline))
    code, said = operator.dlq("replay", "--yes", f"--experiment={missing}")
    assert code == 0, operator.err
    assert f"{pieces + 1} replayed: {pipeline.topic} (no_experiment {pieces + 1})" in said
    found = stored(pipeline, missing, 2)
    assert set(found) == {small, cut}
    assert found[cut].data.spans[0].inputs == "x" * 5_000
    assert {one.info.state.value for one in found.values()} == {"OK"}

    code, said = operator.dlq("replay", "--yes", f"--experiment={missing}")
    assert (code, f"{pieces + 1} were replayed before" in said) == (0, True)
    assert len(records(pipeline)) == before + pieces + 1
    assert [one["reason"] for one in operator.listed("--pending")] == ["unknown_version"]

    # Sent by force all the same, to a worker that remembers the pieces: it changes nothing.
    code, _ = operator.dlq("replay", "--yes", "--again", f"--experiment={missing}")
    assert code == 0
    wait_until_read(pipeline, worker)
    assert set(stored(pipeline, missing, 2)) == {small, cut}
    assert worker.metrics()["spanferry_decode_replayed_total"] == 0
    assert len(operator.listed("--pending")) == 1


def test_what_fails_again_comes_back_with_more_attempts(pipeline, operator):
    pipeline.worker()
    produce(pipeline, b"no trace id", [GARBAGE])
    for attempts in (1, 2, 3):
        letters = operator.wait_for(attempts)
        assert [one["attempts"] for one in letters] == list(range(1, attempts + 1))
        [pending] = operator.listed("--pending")
        assert pending["attempts"] == attempts
        assert operator.dlq("replay", "--yes")[0] == 0
    [last] = operator.wait_for(1, "--pending")
    code, shown = operator.dlq("show", f"0:{last['offset']}")
    assert code == 0
    assert "dlq.attempts: 4" in shown
    assert "mine: kept" in shown
    values = {record.value for record in records(pipeline)}
    assert values == {GARBAGE}


def records(pipeline: Pipeline) -> list[Any]:
    return read_topic(pipeline.kafka.bootstrap_servers, pipeline.topic)


def wait_until_read(pipeline: Pipeline, worker: Any) -> None:
    """Until the worker has taken every record of the topic, and written what it made of them."""
    count = len(records(pipeline))
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        metrics = worker.metrics()
        read, held = (
            metrics[f"spanferry_consume_{name}"] for name in ("records_total", "held_bytes")
        )
        if read >= count and not held:
            return
        time.sleep(0.3)
    raise AssertionError(f"not all of {count} records were read")
