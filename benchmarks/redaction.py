"""What redaction costs the calling thread: the same traces without it and with each preset.

    python -m benchmarks.redaction           the table of docs/redaction.md, in about 8 minutes
    python -m benchmarks.redaction --quick   in a minute; figures not to be quoted

Method. One process, no Kafka: finished traces go to an outlet that drops them, because what is asked
for is the calling thread's time. Every block takes all ways in turn, in an order that rotates from
block to block, and compares each with the way without redaction in that same block: the ratios, with
their medians and quartiles over the blocks, are what to trust. Every trace carries values of its own.

- clean: nothing in it is a secret (but ids, times and words that look a little like some).
- found: one value of the trace holds a secret that the way looks for, among the others.
- log lines, code, JSON in part: the tool answers with such a text, which is no JSON; full of colons and
  equals signs, behind which a field's value might stand.

Results go to benchmarks/results/redaction.json.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

import spanferry
from benchmarks.machine import conditions
from benchmarks.payloads import TracePayload, make_payload
from spanferry import outlet as outlets
from spanferry.parcel import Waiting
from spanferry.redaction import PRESETS, Redaction
from spanferry.settings import Settings

__all__ = ["CASES", "TEXTS", "WAYS", "Case", "Row", "main", "measure", "table"]

RESULTS = Path(__file__).parent / "results" / "redaction.json"

WAYS: dict[str, Redaction | None] = {
    "off": None,
    **{preset: Redaction(presets=[preset]) for preset in PRESETS},
    "all presets": Redaction(presets=["all"]),
    "a field": Redaction(fields=["ssn"]),
    "three fields": Redaction(fields=["ssn", "password", "*token*"]),
    "a pattern": Redaction(patterns={"ticket": r"\bACME-\d{6}\b"}),
    "a function": Redaction(function=lambda value, place: value),
}
_FIELD_WAYS = ("a field", "three fields")
_SECRETS = {
    "api-keys": "sk-" + "abcdefghijklmnopqrstuvwx0123456789",
    "tokens": "Bearer abc123def456ghi789",
    "passwords": "password=hunter2",
    "emails": "bob@example.com",
    "cards": "4111 1111 1111 1111",
    "all presets": "bob@example.com, 4111 1111 1111 1111",
    "a pattern": "ACME-123456",
}


def _log(number: int) -> str:
    head = f"2026-11-30T03:{number % 60:02}:11.250Z level=info req={number}"
    return f'{head} path="/items?page=2&size=20" took={number % 97}ms user: u-{number}'


def _code(number: int) -> str:
    head = f"def step_{number}(items: list[str], *, limit: int = {number}) -> dict[str, int]:"
    return (
        head
        + f'\n    total = {{"a": {number}, "b": len(items)}}  # see: part {number}\n    return total'
    )


def _row(number: int) -> str:
    return json.dumps({"id": number, "name": f"n{number}", "ok": True, "score": number / 7})


def _lines(line: Callable[[int], str], between: str) -> Callable[[int, int], str]:
    def text(size: int, seed: int) -> str:
        first = 1_000 * seed
        lines = [line(number) for number in range(first, first + size // len(line(first)) + 2)]
        return between.join(lines)[:size]

    return text


TEXTS: dict[str, Callable[[int, int], str]] = {
    "log lines": _lines(_log, "\n"),
    "code": _lines(_code, "\n\n"),
    "JSON in part": _lines(_row, ", "),
}
"""By shape: texts that are no JSON, of so many characters; another seed, another text."""


class Case(msgspec.Struct, frozen=True):
    """One kind of trace."""

    name: str
    size: int
    shape: str
    traces: int
    """In a block, for each way."""


CASES = (
    Case("10 KB", 10_000, "chat", 40),
    Case("1 MB of text", 1_000_000, "chat", 3),
    Case("1 MB of small dicts", 1_000_000, "rows", 3),
    *(Case(f"10 KB of {shape}", 10_000, shape, 40) for shape in TEXTS),
)


class Row(msgspec.Struct, frozen=True):
    """One way in one case: milliseconds, and times those without redaction, of every block."""

    case: str
    secrets: str
    way: str
    ms: list[float]
    ratios: list[float]


class _Nowhere:
    """An outlet that drops what it is given."""

    def __init__(self, redact: Redaction | None) -> None:
        self.settings = Settings(bootstrap_servers="none:1", redact=redact)

    def put(self, waiting: Waiting, /) -> None:
        """Nothing."""


def _trace(payload: TracePayload) -> None:
    with spanferry.start_span("answer", span_type="AGENT") as agent:
        agent.set_inputs(payload.agent[0])
        for name, (inputs, outputs) in zip(payload._fields[1:], payload[1:], strict=True):
            with spanferry.start_span(name) as span:
                span.set_inputs(inputs)
                span.set_outputs(outputs)
        agent.set_outputs(payload.agent[1])


def _made(case: Case, seed: int) -> TracePayload:
    """Of texts, the answer of the tool is one, in a trace with little else."""
    if case.shape not in TEXTS:
        return make_payload(case.shape, case.size, seed)
    payload = make_payload("chat", 2_000, seed)
    return payload._replace(tool=(payload.tool[0], TEXTS[case.shape](case.size, seed)))


def _with(secret: Any, payload: TracePayload) -> TracePayload:
    """The same, with a secret in the outputs of the tool."""
    inputs, outputs = payload.tool
    return payload._replace(tool=(inputs, [outputs, secret]))


def _time(payloads: list[TracePayload]) -> float:
    """Milliseconds of one trace: the median."""
    taken: list[float] = []
    for payload in payloads:
        started = time.thread_time_ns()
        _trace(payload)
        taken.append((time.thread_time_ns() - started) / 1e6)
    return statistics.median(taken)


def measure(cases: tuple[Case, ...], blocks: int, say: Callable[[str], None]) -> list[Row]:
    """All ways in all cases."""
    rows: list[Row] = []
    for case in cases:
        made = [_made(case, seed) for seed in range(case.traces + 1)]
        for secrets in ("clean", "found"):
            ways = [way for way in WAYS if secrets == "clean" or way != "a function"]
            outlet = {way: _Nowhere(WAYS[way]) for way in ways}
            given = dict.fromkeys(ways, made)
            if secrets == "found":
                given = {way: [_with(_secret(way), one) for one in made] for way in ways}
            times: dict[str, list[float]] = {way: [] for way in ways}
            for block in range(blocks):
                turn = block % len(ways)
                for way in ways[turn:] + ways[:turn]:
                    outlets.install(outlet[way])
                    _trace(given[way][-1])
                    gc.collect()
                    times[way].append(_time(given[way][:-1]))
            for way in ways:
                ratios = [a / b for a, b in zip(times[way], times["off"], strict=True)]
                rows.append(Row(case.name, secrets, way, times[way], ratios))
            say(f"{case.name}, {secrets}")
    outlets.install(None)
    return rows


def _secret(way: str) -> Any:
    return (
        {"ssn": "123-45-6789"} if way in _FIELD_WAYS else f"see {_SECRETS.get(way, 'nothing')}, ok"
    )


def table(rows: list[Row]) -> str:
    """In Markdown."""
    names = [case.name for case in CASES if any(row.case == case.name for row in rows)]
    heads = [f"{name}, {secrets}" for name in names for secrets in ("clean", "found")]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for way in WAYS:
        cells = [
            _cell(rows, name, secrets, way) for name in names for secrets in ("clean", "found")
        ]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(rows: list[Row], case: str, secrets: str, way: str) -> str:
    for row in rows:
        if (row.case, row.secrets, row.way) == (case, secrets, way):
            ms = statistics.median(row.ms)
            if way == "off":
                return f"{ms:.3g} ms"
            low, middle, high = statistics.quantiles(row.ratios, n=4)
            return f"{middle:.2f} ({low:.2f}-{high:.2f})"
    return ""


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description="What redaction costs.")
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    before = conditions()
    cases = tuple(msgspec.structs.replace(one, traces=3) for one in CASES) if quick else CASES
    rows = measure(cases, 5 if quick else 21, lambda line: print(line, file=sys.stderr))
    print(table(rows))
    if not quick:
        result = {"conditions": before, "rows": rows}
        RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
