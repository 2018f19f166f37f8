"""Helpers: sinks with an archive, and traces as MLflow's API gives them, without what says where they lie."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spanferry_worker.stages.archive import ArchivePolicy
from spanferry_worker.stages.trace import AssembledTrace
from tests.sinks.conftest import Place
from tests.sinks.stores import ids, span, trace

LOCATION = "mlflow.trace.spansLocation"
PLACE = "mlflow.trace.archiveLocation"
WHERE = frozenset({LOCATION, PLACE, "mlflow.artifactLocation"})
LONG = "a long answer " * 2_000


def policy(folder: Path, above_bytes: int = 20_000) -> ArchivePolicy:
    return ArchivePolicy(location=(folder / "archive").as_uri(), above_bytes=above_bytes)


def files(folder: Path) -> dict[str, bytes]:
    """Everything in the archive, by the place below it."""
    root = folder / "archive"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def large(**fields: Any) -> AssembledTrace:
    """A root and its child, of 60 KB."""
    spans = fields.pop("spans", None)
    root, child = ids(2)
    texts = {
        "mlflow.spanInputs": json.dumps({"question": "how tall", "rest": LONG}).encode(),
        "mlflow.spanOutputs": json.dumps([LONG, None, 1.5, True]).encode(),
        "tier": b'"gold"',
    }
    made = [span(child, root, name="look up"), span(root, attributes=texts)]
    return trace(spans or made, **fields)


def name(of: AssembledTrace) -> str:
    return "tr-" + (of.trace_id or b"").hex()


def is_archived(place: Place, of: AssembledTrace) -> bool:
    return bool(place.info(of.trace_id or b"").tags[LOCATION] == "ARCHIVE_REPO")


def told(given: Any, without: frozenset[str] = WHERE) -> dict[str, Any]:
    """A trace of MLflow's API as plain values: its record, its spans and every property of these."""
    info = given.info.to_dict()
    info["tags"] = {k: v for k, v in info.get("tags", {}).items() if k not in without}
    info["trace_metadata"].pop("mlflow.modelId", None)
    for one in info.get("assessments", []):
        one.pop("create_time", None)
        one.pop("last_update_time", None)
    spans = given.data.spans
    assert all(one.parent_id is None for one in spans[:1]) or all(one.parent_id for one in spans)
    # MLflow gives those that begin at the same nanosecond in any order
    ordered = sorted(spans, key=lambda one: (bool(one.parent_id), one.start_time_ns, one.span_id))
    assert [one.start_time_ns for one in ordered] == [one.start_time_ns for one in spans]
    return {"info": info, "spans": [_span(one) for one in ordered]}


def _span(one: Any) -> Mapping[str, Any]:
    return {
        "attributes": repr(one.attributes),  # NaN is not equal to itself
        "inputs": repr(one.inputs),
        "outputs": repr(one.outputs),
        "events": [(event.name, event.timestamp, event.attributes) for event in one.events],
        "links": [(link.trace_id, link.span_id, link.attributes) for link in one.links],
        "status": (one.status.status_code, one.status.description),
        "times": (one.start_time_ns, one.end_time_ns),
        "named": (one.name, one.span_type, one.span_id, one.parent_id, one.trace_id),
        "plain": {k: v for k, v in one.to_dict().items() if k != "attributes"},
    }
