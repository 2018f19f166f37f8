"""What an app says of a trace beside its spans: tags set and taken away, prompts, parameters."""

import json
import secrets
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from spanferry_schemas import TracePart
from spanferry_worker.errors import TraceNotFoundError, TransientError
from spanferry_worker.stages.parts import merge_parts
from tests.sinks.conftest import OpenSink, Place, everywhere
from tests.sinks.stores import dump, feedback, five_spans, ids, late, span, trace

pytestmark = pytest.mark.mlflow


def tags_of(place: Place, one: Any) -> dict[str, str]:
    tags = place.info(one.trace_id).tags
    return {key: value for key, value in tags.items() if not key.startswith("mlflow.")}


async def test_tags_for_a_stored_trace(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    one = five_spans(part=TracePart(tags={"a": "1", "b": "1"}))
    tags_alone = late(one, part=TracePart(tags={"b": "2", "c": "2"}))
    with pytest.raises(TraceNotFoundError):
        await sink.write([tags_alone])
    await sink.write([one])
    await sink.write([tags_alone])
    assert tags_of(place, one) == {"a": "1", "b": "2", "c": "2"}
    assert len(place.trace(one.trace_id or b"").data.spans) == 5


@everywhere
async def test_deleted_tags(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    own = TracePart(tags={"keep": "1", "go": "1", "k" * 300: "long"})
    parts = [own, TracePart(deleted_tags=("go", "never there"))]
    one, two = five_spans(part=merge_parts(*parts)), five_spans(part=own)
    await sink.write([one, two])
    assert set(tags_of(place, one)) == {"keep", "k" * 250}
    deletion = late(two, part=TracePart(deleted_tags=("go", "never there", "k" * 300)))
    await sink.write([deletion])
    assert tags_of(place, two) == {"keep": "1"}
    before = dump(place.database)
    await sink.write([deletion])
    assert dump(place.database) == before
    await sink.write([late(two, part=TracePart(tags={"go": "2"}, deleted_tags=("go",)))])
    assert tags_of(place, two) == {"keep": "1", "go": "2"}


async def test_tags_that_mlflow_guards_cannot_be_deleted(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    one = five_spans()
    await sink.write([one])
    guarded = ["mlflow.artifactLocation", "mlflow.trace.spansLocation"]
    before = dump(place.database)
    await sink.write([late(one, part=TracePart(deleted_tags=guarded))])
    assert dump(place.database) == before


async def test_prompts(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    name = f"prompt-{secrets.token_hex(4)}"
    one = five_spans(part=TracePart(prompts=((name, "1"), (name, "an alias"))))
    await sink.write([one, five_spans()])
    later = late(one, part=TracePart(prompts=((name, "1"), (name, "2"))))
    await sink.write([later])
    before = dump(place.database)
    await sink.write([later])
    await sink.write([one])
    assert dump(place.database) == before
    tag = place.info(one.trace_id or b"").tags["mlflow.linkedPrompts"]
    assert json.loads(tag) == [{"name": name, "version": "1"}, {"name": name, "version": "2"}]
    trace_id = "tr-" + (one.trace_id or b"").hex()
    links = [r for r in before["entity_associations"] if r["source_id"] == trace_id]
    assert sorted(r["destination_id"] for r in links) == [f"{name}/1", f"{name}/2"]
    experiment = place.info(one.trace_id or b"").experiment_id
    found, _ = place.store.search_traces(
        locations=[experiment], filter_string=f"prompt = '{name}/2'"
    )
    assert [info.trace_id for info in found] == [trace_id]


async def test_prompts_without_a_number_are_passed_over(
    place: Place, opened: OpenSink, caplog: pytest.LogCaptureFixture
) -> None:
    sink = await opened(place.uri)
    one = five_spans(part=TracePart(prompts=(("p", "latest"),)))
    await sink.write([one])
    await sink.write([late(one, part=TracePart(prompts=(("p", "latest"),)))])
    assert "mlflow.linkedPrompts" not in place.info(one.trace_id or b"").tags
    assert "prompts" not in caplog.text


@pytest.mark.parametrize("transient", [True, False])
async def test_prompts_that_cannot_be_linked(
    database: Place,
    opened: OpenSink,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    transient: bool,
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    def refuses(*_: object) -> None:
        code = TEMPORARILY_UNAVAILABLE if transient else INVALID_PARAMETER_VALUE
        raise MlflowException("no links today", error_code=code)

    sink = await opened(database.uri)
    some = [five_spans(part=TracePart(prompts=(("p", "1"),))) for _ in range(3)]
    with monkeypatch.context() as patch:
        patch.setattr(SqlAlchemyStore, "link_prompts_to_trace", refuses)
        if transient:
            with pytest.raises(TransientError, match="no links today"):
                await sink.write(some)
        else:
            await sink.write(some)
            assert caplog.text.count("no links today") == 1
    await sink.write(some)
    assert len(dump(database.uri)["entity_associations"]) == 3


async def test_parameters_of_the_active_model(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    experiment = f"experiment {secrets.token_hex(4)}"
    part = TracePart(experiment=experiment, active_model="agent")

    async def params_after(params: dict[str, str]) -> dict[str, str]:
        one = five_spans(part=msgspec.structs.replace(part, model_params=params))
        await sink.write([one])
        model_id = place.info(one.trace_id or b"").trace_metadata["mlflow.modelId"]
        found: dict[str, str] = place.store.get_logged_model(model_id).params
        return found

    assert await params_after({"llm": "small", "k\0" * 200: "v" * 7000}) == {
        "llm": "small",
        "k\ufffd" * 125: "v" * 6000,
    }
    assert (await params_after({"llm": "large", "temperature": "0"})).items() >= {
        ("llm", "small"),  # a parameter never changes
        ("temperature", "0"),
    }
    assert len(await params_after({})) == 3
    many = {f"p{number}": "x" for number in range(250)}
    assert (await params_after(many)).items() >= many.items()


async def test_a_late_assessment_overrides_a_stored_one(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    old = feedback(value=b"0.2", source_type="LLM_JUDGE", source_id="judge")
    one = five_spans(assessments=[old])
    await sink.write([one])
    new = feedback(
        value=b"0.9",
        overrides=old.assessment_id,
        source_type="HUMAN",
        source_id="reviewer",
        rationale="better than that",
        metadata={"why": "x", "mlflow.assessment.sourceRunId": "cd" * 16},
        span_id=one.spans[0].span_id,
    )
    await sink.write([late(one, assessments=[new])])
    before = dump(place.database)
    await sink.write([late(one, assessments=[new])])
    await sink.write([one])
    assert dump(place.database) == before
    found = {a.assessment_id: a for a in place.info(one.trace_id or b"").assessments}
    assert (found[old.assessment_id].valid, found[new.assessment_id].valid) == (False, True)
    ours = found[new.assessment_id]
    assert (ours.overrides, ours.feedback.value) == (old.assessment_id, 0.9)
    assert (ours.rationale, ours.run_id) == ("better than that", "cd" * 16)
    assert ours.span_id == one.spans[0].span_id.hex()
    assert ours.metadata["why"] == "x"


async def test_traces_say_what_was_sampled_of_them(place: Place, opened: OpenSink) -> None:
    sink = await opened(place.uri)
    marks = {
        "spanferry.sampling.outcome": "skeleton",
        "spanferry.sampling.weight": "2.5",
        "spanferry.sampling.records": "spanferry.traces/3:7,1,12",
    }
    part = TracePart(metadata={"mine": "m", **marks}, client_request_id="r-1")
    cut = trace([span(*ids(1))], part=part)
    plain = trace([span(*ids(1))], part=TracePart(metadata={"mine": "m"}))
    assert cut.trace_id is not None
    assert plain.trace_id is not None
    await sink.write([cut, plain])
    found = await sink.marks([cut.trace_id, plain.trace_id, b"\7" * 16])
    assert found == {cut.trace_id: marks, plain.trace_id: {}}
    assert await sink.marks([]) == {}
    judged = replace(feedback(), trace_id=None, client_request_id="r-1")
    assert await sink.marks_of_request(judged) == (cut.trace_id, marks)
    assert await sink.marks_of_request(replace(judged, client_request_id="r-2")) is None
    await sink.write([replace(cut, assessments=[judged])])
    assert await sink.marks_of_request(judged) is None
