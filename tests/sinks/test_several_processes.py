"""Traces of several processes: whatever arrives when, what is stored is what the whole is at once."""

import json
import random
from typing import Any

import pytest

from spanferry_schemas import End, Fragment, StatusCode, TracePart, encode
from spanferry_worker.stages.assemble import AssemblePolicy, Assembler
from spanferry_worker.stages.decode import Decoded
from spanferry_worker.stages.trace import AssembledTrace, FinishReason, Position
from tests.sinks.conftest import OpenSink, Place
from tests.sinks.stores import ids, span
from tests.sinks.test_write import llm

pytestmark = pytest.mark.mlflow

POLICY = AssemblePolicy(idle_s=2, age_s=6, late_grace_s=1, feedback_grace_s=1)
Arrivals = list[tuple[int, Fragment]]
"""Milliseconds and fragments."""


def services(trace_id: bytes, *, failed: bool) -> list[list[Fragment]]:
    """What a front end and the two services that it calls send, each in its own order."""
    root, agent, call, search, model, other = ids(6)
    payload = {"mlflow.spanInputs": b'{"q":"how tall"}', "mlflow.spanOutputs": b'"3 m"'}
    front = TracePart(
        experiment="front",
        client_request_id="r-1",
        tags={"team": "web"},
        metadata={"mlflow.trace.session": "s", "mlflow.source.name": "front.py"},
    )
    back = TracePart(experiment="back", metadata={"mlflow.source.name": "back.py", "db": "pg"})
    status = StatusCode.ERROR if failed else StatusCode.OK
    remote = End(2, remote_parent=True)
    return [
        [
            Fragment(trace_id, [span(call, agent, at_ms=2, for_ms=40)]),
            Fragment(trace_id, [span(agent, root, at_ms=1, for_ms=60, span_type="AGENT")]),
            Fragment(
                trace_id,
                [span(root, name="ask", for_ms=90, status=status, attributes=payload)],
                front,
                End(3, contexts_out=2),
            ),
        ],
        [
            Fragment(trace_id, [llm(model, search, 1000, 500, at_ms=12)]),
            Fragment(
                trace_id,
                [span(search, call, at_ms=10, for_ms=20, attributes=payload)],
                back,
                remote,
            ),
        ],
        [
            Fragment(
                trace_id,
                [llm(other, call, 200, 100, at_ms=30, for_ms=200)],
                back,
                End(1, remote_parent=True),
            )
        ],
    ]


def interleaved(parts: list[list[Fragment]], chance: random.Random) -> Arrivals:
    """Each service in its own order, with pauses of up to longer than a trace may stay open."""
    left = [list(part) for part in parts]
    now_ms, out = 1_000_000, []
    while any(left):
        now_ms += chance.choice([1, 1, 500, 1_500, 2_500, 7_000])
        out.append((now_ms, chance.choice([part for part in left if part]).pop(0)))
    return out


def assembled(arrivals: Arrivals) -> list[AssembledTrace]:
    """What goes to the store, in order."""
    assembler = Assembler(POLICY)
    out: list[AssembledTrace] = []
    for offset, (now_ms, fragment) in enumerate(arrivals):
        for tick_ms in range(now_ms - 7_000, now_ms, 500):
            out += assembler.expire(tick_ms)
        decoded = Decoded(fragment, [Position("t", 0, offset)], len(encode(fragment)))
        trace = assembler.add(decoded, now_ms)
        out += [] if trace is None else [trace]
    for tick_ms in range(now_ms, now_ms + 10_000, 500):
        out += assembler.expire(tick_ms)
    return out


def at_once(arrivals: Arrivals) -> AssembledTrace:
    """The whole in one piece: as a single process would have sent it."""
    [whole] = assembled([(0, fragment) for _, fragment in arrivals])
    assert (whole.reason, whole.complete) == (FinishReason.COMPLETE, True)
    return whole


def facts(found: Any) -> dict[str, Any]:
    """All that MLflow tells of a trace, but its id; span by span."""
    plain = json.loads(json.dumps(found.to_dict(), default=str).replace(found.info.trace_id, "tr-"))
    for one in plain["data"]["spans"]:
        one.pop("trace_id")
    plain["data"]["spans"].sort(key=lambda one: one["span_id"])
    for key in ("mlflow.trace.sizeStats",):
        plain["info"]["trace_metadata"][key] = json.loads(plain["info"]["trace_metadata"][key])
    return plain


@pytest.mark.parametrize("failed", [False, True])
async def test_in_any_order_and_after_any_pause(
    database: Place, opened: OpenSink, failed: bool
) -> None:
    sink = await opened(database.uri)
    reasons: set[FinishReason] = set()
    for seed in range(8):
        trace_id = bytes([seed + 1 + 100 * failed]) * 16
        arrivals = interleaved(services(trace_id, failed=failed), random.Random(seed))
        pieces = assembled(arrivals)
        reasons |= {piece.reason for piece in pieces}
        for piece in pieces:
            await sink.write([piece])
        merged = facts(database.trace(trace_id))
        twin = bytes([seed + 51 + 100 * failed]) * 16
        renamed = [
            (now_ms, Fragment(twin, one.spans, one.trace, one.end)) for now_ms, one in arrivals
        ]
        await sink.write([at_once(renamed)])
        whole = facts(database.trace(twin))
        assert merged == whole, f"seed {seed}: {[piece.reason for piece in pieces]}"
        assert merged["info"]["state"] == ("ERROR" if failed else "OK")
        assert json.loads(merged["info"]["trace_metadata"]["mlflow.trace.tokenUsage"]) == {
            "input_tokens": 1200,
            "output_tokens": 600,
            "total_tokens": 1800,
        }
    assert reasons >= {FinishReason.COMPLETE, FinishReason.IDLE, FinishReason.LATE}


def test_it_is_complete_as_soon_as_all_that_was_announced_is_there() -> None:
    """Not before, and without waiting."""
    for seed in range(50):
        chance = random.Random(seed)
        arrivals = [
            (index, fragment)
            for index, (_, fragment) in enumerate(
                interleaved(services(b"t" * 16, failed=False), chance)
            )
        ]
        assembler = Assembler(POLICY)
        out = [
            assembler.add(Decoded(one, [Position("t", 0, now_ms)], 1), now_ms)
            for now_ms, one in arrivals
        ]
        assert out[:-1] == [None] * (len(out) - 1)
        assert out[-1] is not None
        assert len(out[-1].spans) == 6


def test_what_was_announced_and_never_comes_is_given_up_after_the_grace() -> None:
    front, back, _ = services(b"t" * 16, failed=False)
    [trace] = assembled([(now_ms, one) for now_ms, one in enumerate([*front, *back], 1_000_000)])
    assert (trace.reason, trace.complete, len(trace.spans)) == (FinishReason.IDLE, False, 5)
