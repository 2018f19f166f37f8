"""What a program returned and stored, in words that are the same in every run.

Ids become places (`<trace 0>`, `<span 0:root/child>`), times and lengths become what must hold of
them, texts and values stay to the letter.
"""

import base64
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from mlflow.entities import Assessment, Span

from tests.mlflow_api.stored import StoredTrace

__all__ = ["LONG_AGO_NS", "NO_FILE", "canonical", "name_of_a_file", "own_frames", "paths"]

LONG_AGO_NS = 1_790_000_000_000_000_000
"""Times before this were set by the program and are compared to the nanosecond."""
SLACK_NS = 2_000_000
CUT = re.compile(r"[0-9a-f-]{1,36}\.{0,3}$")
"""Part of an id at the end of a text that MLflow has cut."""
UNKNOWN = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r"|(?<![0-9a-f])(?:[0-9a-f]{40}|[0-9a-f]{32}|[0-9a-f]{16})(?![0-9a-f])"
)
CHANCE = [
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:PORT"),
    (re.compile(r"\b0x[0-9a-f]{6,}"), "0xADDRESS"),
    (re.compile(r"\b20(?:2[6-9]|[3-9]\d)-\d\d-\d\d[ T][\d:.]+(?:Z|\+00:00)?"), "<now>"),
]
FEW_DIGITS = 4
NO_FILE = "<no file: "
"""Begins the name of an attachment that a span refers to and nobody can read."""
LIMITS = (250, 1_000)


class Names:
    """Gives every id of one program a name that says where it belongs."""

    def __init__(self, prefix: str, found: list[StoredTrace]) -> None:
        self._prefix = re.compile(rf"\b{prefix}-")
        self._known: dict[str, str] = {}
        self._unknown: dict[str, str] = {}
        for number, stored in enumerate(found):
            self._learn_trace(number, stored)
        self._any = re.compile("|".join(map(re.escape, self._known)) or r"(?!)")

    def _learn_trace(self, number: int, stored: StoredTrace) -> None:
        hexadecimal = stored.trace.info.trace_id.removeprefix("tr-")
        self._learn(hexadecimal, f"<trace {number}>")
        self._known[f"{stored.artifacts}/"] = f"<{stored.experiment}>/"
        for span, path in paths(stored.trace.data.spans):
            self._learn(span.span_id, f"<span {number}:{path}>")
        for name, content in stored.attachments.items():
            self._known[name] = name_of_a_file(content)
        for one in sorted(stored.trace.info.assessments, key=assessment_order):
            self._known[one.assessment_id] = f"<assessment {number}:{one.name}>"

    def _learn(self, hexadecimal: str, name: str) -> None:
        self._known[hexadecimal] = name
        self._known[base64.b64encode(bytes.fromhex(hexadecimal)).decode()] = name

    def of(self, value: Any) -> Any:
        """The value with every id in it replaced, keys of dicts included."""
        if isinstance(value, dict):
            return {self.of(key): self.of(one) for key, one in value.items()}
        if isinstance(value, list):
            return [self.of(one) for one in value]
        return self._text(value) if isinstance(value, str) else value

    def _text(self, text: str) -> str:
        named = self._any.sub(lambda match: self._known[match[0]], text)
        named = UNKNOWN.sub(self._unknown_id, named)
        named = self._prefix.sub("RUN-", named)
        for pattern, name in CHANCE:
            named = pattern.sub(name, named)
        return CUT.sub("<cut>", named) if named != text and len(text) in LIMITS else named

    def _unknown_id(self, match: re.Match[str]) -> str:
        given = match[0]
        if len(given) == 40:
            return "<commit>"
        if len(set(given)) <= FEW_DIGITS or given in "0123456789abcdef" * 3:
            return given  # written in the program
        return self._unknown.setdefault(given, f"<id {len(self._unknown)}>")


def name_of_a_file(content: bytes | str) -> str:
    """By what is in it, or by why it cannot be read."""
    if isinstance(content, str):
        return f"{NO_FILE}{content}>"
    return f"<file {hashlib.sha256(content).hexdigest()[:12]}>"


def assessment_order(one: Any) -> tuple[str, int, str]:
    return one.name, one.create_time_ms, str(one.feedback or one.expectation)


def paths(spans: Iterable[Span]) -> list[tuple[Span, str]]:
    """Every span with its place in the tree; those of one name are numbered by their start."""
    children: dict[str | None, list[Span]] = defaultdict(list)
    spans = list(spans)
    there = {span.span_id for span in spans}
    for span in spans:
        children[span.parent_id if span.parent_id in there else None].append(span)
    found: list[tuple[Span, str]] = []

    def visit(parent: str | None, place: str) -> None:
        counts: dict[str, int] = defaultdict(int)
        for span in sorted(children[parent], key=lambda one: (one.start_time_ns, one.name)):
            number = counts[span.name]
            counts[span.name] += 1
            path = f"{place}{span.name}" + (f"#{number}" if number else "")
            found.append((span, path))
            visit(span.span_id, f"{path}/")

    visit(None, "")
    return found


def canonical(
    prefix: str, found: list[StoredTrace], result: dict[str, Any], *, concurrent: bool
) -> dict[str, Any]:
    """One program's run, ready to be compared."""
    ordered = sorted(found, key=trace_order)
    names = Names(prefix, ordered)
    traces = {
        place: {
            "experiment": stored.experiment,
            "info": info_of(stored),
            "prompts": stored.prompts,
            "spans": {path: span_of(span, stored) for span, path in paths(stored.trace.data.spans)},
        }
        for place, stored in zip(places(ordered), ordered, strict=True)
    }
    for trace in traces.values():
        # A dict shows what differs at each place; the order of the places is compared once.
        trace["order"] = sorted(trace["spans"]) if concurrent else list(trace["spans"])
    shown = {key: result[key] for key in ("returned", "error") if key in result}
    return names.of({"traces": traces, **json.loads(json.dumps(shown))})


def trace_order(stored: StoredTrace) -> tuple[str, str, int]:
    spans = stored.trace.data.spans
    started = min((span.start_time_ns for span in spans), default=0)
    root = next((span.name for span in spans if span.parent_id is None), "")
    return stored.experiment, root, started


def places(ordered: list[StoredTrace]) -> list[str]:
    """What each trace is called: its experiment and its root, numbered where there are several."""
    names = [f"{experiment}:{root}" for experiment, root, _ in map(trace_order, ordered)]
    return [
        name + (f"#{names[:index].count(name)}" if name in names[:index] else "")
        for index, name in enumerate(names)
    ]


def info_of(stored: StoredTrace) -> dict[str, Any]:
    """All that the trace says of itself."""
    info = stored.trace.info.to_dict()
    metadata = dict(info.get("trace_metadata", {}))
    metadata.pop("mlflow.trace.sizeBytes", None)
    if "mlflow.trace.sizeStats" in metadata:
        stats = json.loads(metadata["mlflow.trace.sizeStats"])
        metadata["mlflow.trace.sizeStats"] = [sorted(stats), stats["num_spans"]]
    for key in info.keys() & {"request_time", "execution_duration_ms"}:
        del info[key]
    info["trace_metadata"] = metadata
    info["trace_location"]["mlflow_experiment"]["experiment_id"] = stored.experiment
    info["times"] = times_of(stored)
    given = sorted(stored.trace.info.assessments, key=assessment_order)
    info["assessments"] = [assessment_of(one) for one in given]
    return info


def times_of(stored: StoredTrace) -> dict[str, Any]:
    """How the trace's times are related to its root's."""
    info = stored.trace.info
    roots = [span for span in stored.trace.data.spans if span.parent_id is None]
    if not roots:
        return {"roots": 0}
    [root, *_] = roots
    late = abs(info.request_time * 1_000_000 - root.start_time_ns)
    took = ((root.end_time_ns or 0) - root.start_time_ns) // 1_000_000
    duration = info.execution_duration
    return {
        "roots": len(roots),
        "starts with the root": late < SLACK_NS,
        "takes as long as the root": duration is not None and abs(duration - took) <= 1,
        "exactly": info.request_time if root.start_time_ns < LONG_AGO_NS else None,
    }


def assessment_of(one: Any) -> dict[str, Any]:
    """As the server's protocol carries it, also where it was read from a database."""
    plain = Assessment.from_proto(one.to_proto()).to_dictionary()
    for key in ("create_time", "last_update_time"):
        plain[key] = bool(plain[key])
    for side in ("feedback", "expectation"):
        error = (plain.get(side) or {}).get("error") or {}
        if "stack_trace" in error:
            error["stack_trace"] = own_frames(error["stack_trace"])
    return plain


def span_of(span: Span, stored: StoredTrace) -> dict[str, Any]:
    """All that a span says of itself."""
    # What is stored is JSON, in one of several layouts of the same value.
    attributes = {key: unpacked(text) for key, text in span.to_dict()["attributes"].items()}
    if attributes.get("mlflow.experimentId") == {"json": stored.experiment_id}:
        attributes["mlflow.experimentId"] = stored.experiment
    return {
        "type": span.span_type,
        "parent": span.parent_id,
        "status": [span.status.status_code.value, span.status.description],
        "attributes": attributes,
        "events": [event_of(event, span) for event in span.events],
        "links": [[link.trace_id, link.span_id, link.attributes] for link in span.links],
        "times": [moment(span.start_time_ns, span), moment(span.end_time_ns, span)],
    }


def unpacked(text: Any) -> Any:
    """The value of an attribute; what is no JSON stays a text."""
    try:
        return {"json": json.loads(text)}
    except (TypeError, ValueError):
        return text


def moment(time_ns: int | None, span: Span) -> Any:
    """A time that the program set, or what holds of the clock's."""
    if not time_ns:
        return time_ns
    if time_ns < LONG_AGO_NS:
        return time_ns
    return "in order" if time_ns >= span.start_time_ns else "before its start"


def event_of(event: Any, span: Span) -> list[Any]:
    attributes = dict(event.attributes or {})
    if "exception.stacktrace" in attributes:
        attributes["exception.stacktrace"] = own_frames(attributes["exception.stacktrace"])
    return [event.name, attributes, moment(event.timestamp, span)]


def own_frames(text: str) -> list[str]:
    """A traceback without the frames, and the lines under them, that are not the programs' own."""
    kept: list[str] = []
    ours = True
    for line in text.split("\n"):
        frame = re.sub(r"^ +\| ", "", line)  # the margin of exception groups
        if frame.startswith('  File "'):
            ours = "/mlflow_api/" in line
        elif not frame.startswith("    "):
            ours = True
        if ours and set(line.strip()) - set("^~|"):
            kept.append(re.sub(r'File ".*/mlflow_api/', 'File "', line))
    return kept
