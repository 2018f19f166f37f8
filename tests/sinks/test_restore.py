"""A trace that sampling has cut reads, once it is restored, as if it had been stored whole."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from spanferry_schemas import Span, TracePart
from spanferry_schemas.cutting import CUT_ATTRIBUTE
from spanferry_worker.errors import TransientError
from spanferry_worker.sampling.finding import Found
from spanferry_worker.sampling.restoring import Plan, Verdict, planned
from spanferry_worker.stages.sample import (
    NO_TABLE,
    Action,
    Outcome,
    Rule,
    Sampler,
    SamplingPolicy,
)
from spanferry_worker.stages.trace import AssembledTrace
from tests.sinks.conftest import OpenSink, Place, make_place
from tests.sinks.stores import dump, feedback, ids, span, trace

pytestmark = pytest.mark.mlflow

QUESTION = {"messages": [{"role": "system", "content": "rules " * 900},
                         {"role": "user", "content": "What is tea? " * 60}]}  # fmt: skip
ANSWER = {"choices": [{"message": {"role": "assistant", "content": "A drink. " * 400}}]}
USAGE = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
CUTTING = Sampler(SamplingPolicy(rules=[Rule(name="all", action=Action.SKELETON)]))


def big(**fields: Any) -> AssembledTrace:
    root, child, small = ids(3)
    payload = {
        "mlflow.spanInputs": json.dumps(QUESTION).encode(),
        "mlflow.spanOutputs": json.dumps(ANSWER).encode(),
    }
    usage = {"mlflow.chat.tokenUsage": json.dumps(USAGE).encode()}
    spans: list[Span] = [
        span(root, for_ms=50, name="request", attributes=payload),
        span(child, root, at_ms=1, for_ms=30, span_type="LLM", attributes={**payload, **usage}),
        span(small, root, at_ms=2, for_ms=3, attributes={"mlflow.spanInputs": b'"short"'}),
    ]
    part = TracePart(tags={"t": "1"}, metadata={"mlflow.trace.session": "s", "mine": "m"})
    return replace(trace(spans, **({"part": part} | fields)), size=20_000)


def cut(whole: AssembledTrace) -> AssembledTrace:
    kept = CUTTING.apply(whole, CUTTING.decide(whole, NO_TABLE)).trace
    assert kept is not None
    assert kept.spans != whole.spans
    return kept


def plan(whole: AssembledTrace, stored: dict[bytes, dict[str, str]]) -> Plan:
    assert whole.trace_id is not None
    found = Found(whole.trace_id, [whole], 1, 0, 0, is_open=False)
    return planned(found, stored.get(whole.trace_id), incomplete=False)


@pytest.fixture
def sqlite(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where it makes no difference which database it is."""
    made = make_place("sqlite", request, tmp_path)
    yield made
    made.close()


def rows(place: Place, trace_id: bytes) -> dict[str, Any]:
    """All that the database has of a trace, but for its id, MLflow's count of writes, and our marks."""
    text = "tr-" + trace_id.hex()
    found: dict[str, Any] = {}
    for table, lines in dump(place.database, without=["db_payload_generation"]).items():
        found[table] = sorted(
            json.dumps(line, default=str, sort_keys=True)
            for line in lines
            if text in (line.get("trace_id"), line.get("request_id"))
            and not str(line.get("key")).startswith("spanferry.sampling.")
        )
    return found


@pytest.mark.parametrize("previews", ["derived", "given"])
async def test_a_restored_skeleton_is_as_if_stored_whole(
    database: Place, opened: OpenSink, previews: str
) -> None:
    place = database
    sink = await opened(place.uri)
    whole = big()
    assert whole.trace_id is not None
    if previews == "given":
        part = TracePart(request_preview="my question", response_preview="its answer")
        whole = big(part=part)
    await sink.write([cut(whole)])
    assert place.info(whole.trace_id).trace_metadata["spanferry.sampling.outcome"] == "skeleton"
    made = plan(whole, await sink.marks([whole.trace_id]))
    assert (made.verdict, made.before) == (Verdict.RESTORE, Outcome.SKELETON)
    await sink.write([made.trace])
    restored = rows(place, whole.trace_id)
    info = place.info(whole.trace_id)
    read = place.trace(whole.trace_id)

    place.store.delete_traces(info.experiment_id, trace_ids=[info.trace_id])
    assert await sink.marks([whole.trace_id]) == {}
    await sink.write([made.trace])
    assert rows(place, whole.trace_id) == restored
    assert read.data.spans[0].inputs == QUESTION
    assert read.data.spans[1].outputs == ANSWER
    assert not any(CUT_ATTRIBUTE in one.attributes for one in read.data.spans)


async def test_restoring_twice_changes_nothing(database: Place, opened: OpenSink) -> None:
    sink = await opened(database.uri)
    whole = big(assessments=[feedback()])
    assert whole.trace_id is not None
    await sink.write([cut(whole)])
    made = plan(whole, await sink.marks([whole.trace_id]))
    await sink.write([made.trace])
    once = dump(database.uri)
    await sink.write([made.trace])
    assert dump(database.uri) == once
    again = plan(whole, await sink.marks([whole.trace_id]))
    assert again.verdict is Verdict.WHOLE


async def test_a_worker_that_cuts_it_again_changes_nothing(sqlite: Place, opened: OpenSink) -> None:
    """As after a crash: what was not committed is read, decided and written again."""
    sink = await opened(sqlite.uri)
    whole = big()
    assert whole.trace_id is not None
    await sink.write([cut(whole)])
    made = plan(whole, await sink.marks([whole.trace_id]))
    await sink.write([made.trace])
    once = dump(sqlite.uri)
    await sink.write([cut(whole)])
    assert dump(sqlite.uri) == once


async def test_restoring_goes_on_after_a_death_between_its_writes(
    sqlite: Place, opened: OpenSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    def dies(*_: Any) -> Any:
        raise MlflowException("killed", error_code=TEMPORARILY_UNAVAILABLE)

    sink = await opened(sqlite.uri)
    first, second = big(), big()
    for one in (first, second):
        assert one.trace_id is not None
        await sink.write([cut(one)])
        made = plan(one, await sink.marks([one.trace_id]))
        if one is second:
            with monkeypatch.context() as patch:
                patch.setattr(SqlAlchemyStore, "start_trace", dies)
                with pytest.raises(TransientError):
                    await sink.write([made.trace])
        await sink.write([made.trace])
    assert first.trace_id is not None
    assert second.trace_id is not None
    infos = [sqlite.info(one.trace_id) for one in (first, second)]
    assert infos[0].request_preview == infos[1].request_preview
    assert infos[0].request_preview.startswith("What is tea?")
    sizes = [
        {key: value for key, value in info.trace_metadata.items() if "size" in key.lower()}
        for info in infos
    ]
    assert sizes[0] == sizes[1]


async def test_a_dropped_trace_appears(sqlite: Place, opened: OpenSink) -> None:
    sink = await opened(sqlite.uri)
    whole = big()
    assert whole.trace_id is not None
    made = plan(whole, await sink.marks([whole.trace_id]))
    assert (made.verdict, made.before) == (Verdict.RESTORE, Outcome.DROP)
    await sink.write([made.trace])
    metadata = sqlite.info(whole.trace_id).trace_metadata
    assert {key: one for key, one in metadata.items() if key.startswith("spanferry.")} == {
        "spanferry.sampling.rule": "undrop",
        "spanferry.sampling.reason": "restored",
        "spanferry.sampling.restored": "drop",
        "spanferry.sampling.outcome": "full",
        "spanferry.sampling.probability": "1",
        "spanferry.sampling.weight": "1",
        "spanferry.sampling.full_weight": "0",
        "spanferry.sampling.size_bytes": "20000",
    }
    assert sqlite.trace(whole.trace_id).data.spans[0].inputs == QUESTION


async def test_what_the_app_itself_has_cut_stays_cut(sqlite: Place, opened: OpenSink) -> None:
    """Its mark stays, too; only what sampling took away comes back."""
    sink = await opened(sqlite.uri)
    whole = big()
    by_app = json.dumps({"mlflow.spanOutputs": 10**6}).encode()
    spans = [
        replace(one, attributes={**one.attributes, CUT_ATTRIBUTE: by_app}) for one in whole.spans
    ]
    whole = replace(whole, spans=spans)
    assert whole.trace_id is not None
    await sink.write([cut(whole)])
    made = plan(whole, await sink.marks([whole.trace_id]))
    await sink.write([made.trace])
    read = sqlite.trace(whole.trace_id).data.spans
    assert read[0].outputs == ANSWER
    assert read[0].attributes[CUT_ATTRIBUTE] == {"mlflow.spanOutputs": 10**6}
