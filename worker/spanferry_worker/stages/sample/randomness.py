"""Chance that everybody agrees on: 56 bits from ids, and thresholds as OpenTelemetry defines them.

https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/: a trace is kept where
its randomness R is at least the rejection threshold T; its adjusted count is 2^56 / (2^56 - T).
"""

import re
from enum import StrEnum
from hashlib import blake2b
from typing import Final, NamedTuple

__all__ = [
    "SPACE",
    "Randomness",
    "Upstream",
    "hashed",
    "read_upstream",
    "threshold",
    "threshold_text",
]

_BITS: Final = 56
SPACE: Final = 1 << _BITS
_DIGITS: Final = _BITS // 4
_FIELD: Final = re.compile(r"(p|th|rv):([0-9a-f.e-]{1,24})")


class Randomness(StrEnum):
    """Where chance comes from."""

    HASH = "hash"
    OTEL = "otel"


class Upstream(NamedTuple):
    """What samplers before us have done. Without any: (1.0, None, 1.0)."""

    head: float = 1.0
    """The probability of choices that are independent of ours; multiplied."""
    rv: int | None = None
    """OpenTelemetry's explicit randomness of the trace."""
    consistent: float = 1.0
    """The probability of a choice by OpenTelemetry's randomness: with the same one, the smaller counts."""


def hashed(identity: bytes, salt: bytes) -> int:
    """56 bits of an id; equal in every process and language (keyed blake2b, 7 bytes, big-endian)."""
    return int.from_bytes(blake2b(identity, digest_size=7, key=salt[:64]).digest(), "big")


def threshold(probability: float) -> int:
    """The rejection threshold of a probability in (0, 1]: at least one value of 2^56 is kept."""
    return min(SPACE - 1, max(0, SPACE - round(probability * SPACE)))


def threshold_text(rejected: int) -> str:
    """As `th` writes it: 14 hexadecimal digits without the zeros at the end."""
    return f"{rejected:0{_DIGITS}x}".rstrip("0") or "0"


def read_upstream(text: str | None) -> Upstream:
    """What the metadata SAMPLED_UPSTREAM says; what cannot be read counts as not there."""
    if not text:
        return Upstream()
    fields = dict(_FIELD.findall(text))
    return Upstream(
        head=_probability(fields.get("p", "")),
        rv=_digits(fields.get("rv", ""), exact=True),
        consistent=1.0 - (_digits(fields.get("th", ""), exact=False) or 0) / SPACE,
    )


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 1.0
    return value if 0 < value <= 1 else 1.0


def _digits(text: str, *, exact: bool) -> int | None:
    """`rv` has all 14 digits; `th` leaves out zeros at the end."""
    if not text or len(text) > _DIGITS or (exact and len(text) != _DIGITS):
        return None
    try:
        return int(text.ljust(_DIGITS, "0"), 16)
    except ValueError:
        return None
