"""Dead letters as lines for people and as JSON for programs."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from spanferry_schemas import trace_id_text
from spanferry_worker.stages.dead_letter import Letter
from spanferry_worker.text import cut, printable, size_text, time_text

__all__ = [
    "HEAD",
    "as_json",
    "as_line",
    "counted",
    "cut",
    "printable",
    "size_text",
    "time_text",
]

HEAD: Final = (
    f"{'POSITION':<10}  {'FAILED AT (UTC)':<20}  {'REASON':<17}  {'TRACE':<35}  {'SIZE':>8}"
    f"  {'TRIES':>5}  {'REPLAYED':<8}  MESSAGE"
)
_MESSAGE_AT: Final = HEAD.index("MESSAGE")
_MESSAGE_MIN: Final = 40


def as_line(letter: Letter, replayed_to: Sequence[str], width: int) -> str:
    """One line below HEAD, of about `width` characters."""
    trace_id = letter.trace_id
    fields = [
        f"{letter.partition}:{letter.offset}".ljust(10),
        time_text(letter.failed_at_ms).ljust(20),
        printable(letter.reason).ljust(17),
        ("-" if trace_id is None else trace_id_text(trace_id)).ljust(35),
        size_text(letter.size).rjust(8),
        str(letter.attempts).rjust(5),
        ("yes" if replayed_to else "no").ljust(8),
        cut(letter.message, max(_MESSAGE_MIN, width - _MESSAGE_AT)),
    ]
    return "  ".join(fields) + "\n"


def as_json(letter: Letter, replayed_to: Sequence[str]) -> str:
    """One JSON object and a newline. Times are milliseconds since 1970, the key is hexadecimal."""
    trace_id = letter.trace_id
    content = {
        "partition": letter.partition,
        "offset": letter.offset,
        "failed_at_ms": letter.failed_at_ms,
        "reason": letter.reason,
        "message": letter.message,
        "trace_id": None if trace_id is None else trace_id_text(trace_id),
        "key": None if letter.key is None else letter.key.hex(),
        "value_bytes": letter.size,
        "origin": {
            "topic": letter.origin_topic,
            "partition": letter.origin_partition,
            "offset": letter.origin_offset,
            "timestamp_ms": letter.origin_timestamp_ms,
        },
        "attempts": letter.attempts,
        "group": letter.group,
        "version": letter.version,
        "replayed_to": list(replayed_to),
    }
    return msgspec.json.encode(content).decode() + "\n"


def counted(counts: Mapping[str, int]) -> str:
    """`reason 3, other reason 1`, the most first."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{printable(name)} {count:,}" for name, count in ranked)
