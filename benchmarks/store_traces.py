"""Assembled traces for the stores' benchmark: five spans, as an agent's requests make them."""

import itertools
import secrets
import time
from typing import Any

import msgspec

from benchmarks.payloads import make_payload
from spanferry_schemas import Span, StatusCode, TracePart
from spanferry_worker.stages.trace import AssembledTrace, FinishReason

__all__ = ["MAKES", "make_traces"]

MAKES = {"1 KB": 1_000, "10 KB": 10_000, "100 KB": 100_000, "1 MB": 1_000_000}
"""Bytes of inputs and outputs."""

_POOL = 20
_encode = msgspec.json.Encoder().encode
_USAGE = _encode({"input_tokens": 512, "output_tokens": 150, "total_tokens": 662})
_pools: dict[str, list[list[dict[str, bytes]]]] = {}


def make_traces(payload: str, count: int) -> list[AssembledTrace]:
    """So many that no store has seen."""
    pool = _pools.setdefault(payload, [_attributes(payload, seed) for seed in range(_POOL)])
    return [_trace(attributes) for attributes in itertools.islice(itertools.cycle(pool), count)]


def _attributes(payload: str, seed: int) -> list[dict[str, bytes]]:
    made = make_payload("chat", MAKES[payload], seed)
    spans = [
        {"mlflow.spanInputs": _encode(inputs), "mlflow.spanOutputs": _encode(outputs)}
        for inputs, outputs in made
    ]
    spans[4] |= {
        "mlflow.chat.tokenUsage": _USAGE,
        "mlflow.llm.model": b'"gpt-4o-mini"',
        "mlflow.llm.provider": b'"openai"',
    }
    return spans


def _trace(attributes: list[dict[str, bytes]]) -> AssembledTrace:
    ids = [secrets.token_bytes(8) for _ in attributes]
    now = time.time_ns()
    kinds: Any = (
        ("answer", "AGENT", None), ("retrieve", "RETRIEVER", 0), ("look_up", "TOOL", 0),
        ("compose", "CHAIN", 0), ("model", "CHAT_MODEL", 3),
    )  # fmt: skip
    spans = [
        Span(
            ids[number], None if parent is None else ids[parent], name, span_type,
            now + number * 1_000_000, now + 40_000_000 - number * 1_000_000, StatusCode.OK, "",
            {**attributes[number], "mlflow.spanLogLevel": b"20"}, [], [],
        )
        for number, (name, span_type, parent) in enumerate(kinds)
    ]  # fmt: skip
    metadata = {
        "mlflow.trace.session": f"s-{ids[0].hex()[:6]}",
        "mlflow.trace.user": "u-1",
        "mlflow.source.name": "app.py",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": "app",
    }
    return AssembledTrace(
        trace_id=secrets.token_bytes(16),
        trace=TracePart(tags={"mlflow.traceName": "answer", "tier": "gold"}, metadata=metadata),
        spans=spans,
        assessments=[],
        reason=FinishReason.COMPLETE,
        complete=True,
        size=sum(len(value) for one in attributes for value in one.values()),
        positions=[],
    )
