"""What a producer notes of its traces while it makes them: that is what must be accounted for.

Every line is one write, so what it says is there whatever ends the producer. A line that was cut short
by its death is passed over.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

__all__ = ["Journal", "Life", "last_number", "read_life"]

_LAST_BYTES = 4_096


class Journal:
    """One life of a producer, as it writes it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._safe = 0
        self._late = 0

    def made(self, number: int, trace_id: str) -> None:
        """Its trace has begun."""
        self._write(f"made {number} {trace_id}")

    def handed(self, number: int, parcels: int) -> None:
        """It has ended, its feedback was given: with it so many parcels were handed over."""
        self._write(f"handed {number} {parcels}")

    def dropped(self, number: int, parcels: int) -> None:
        """The buffer was full: the app has dropped so many parcels of it, and counted them."""
        self._write(f"dropped {number} {parcels}")

    def dropped_late(self, parcels: int) -> None:
        """The sender has dropped so many in all: the rest of traces that the buffer had torn."""
        if parcels > self._late:
            self._late = parcels
            self._write(f"late {parcels}")

    def safe(self, parcels: int) -> None:
        """So many parcels, the oldest, are in Kafka or on disk."""
        if parcels > self._safe:
            self._safe = parcels
            self._write(f"safe {parcels}")

    def ended(self, account: dict[str, Any]) -> None:
        """The last words of one that was not killed."""
        self._write(f"ended {msgspec.json.encode(account).decode()}")

    def _write(self, line: str) -> None:
        os.write(self._file, line.encode() + b"\n")


class Life(Struct):
    """One life of a producer, as its journal tells it."""

    path: Path
    made: dict[int, str]
    """Every number, with its trace's id."""
    promised: set[int]
    """Numbers that were in Kafka or on disk whole, their feedback too."""
    dropped: dict[int, int]
    """Numbers of which a full buffer has dropped something, with how many parcels that were."""
    dropped_late: int
    """Parcels that the sender has dropped: the rest of some of those."""
    account: dict[str, Any] | None
    """Its stats at the end; None where it was killed."""


def read_life(path: Path) -> Life:
    """The journal of a producer that is gone."""
    life = Life(path, {}, set(), {}, 0, None)
    handed: dict[int, int] = {}
    safe = 0
    for kind, rest in _lines(path.read_bytes()):
        words = rest.split()
        match kind:
            case "made":
                life.made[int(words[0])] = words[1]
            case "handed":
                handed[int(words[0])] = int(words[1])
            case "dropped":
                life.dropped[int(words[0])] = int(words[1])
            case "late":
                life.dropped_late = int(words[0])
            case "safe":
                safe = int(words[0])
            case "ended":
                life.account = msgspec.json.decode(rest)
            case _:
                raise ValueError(f"{path}: {kind} {rest}")
    life.promised = {number for number, parcels in handed.items() if parcels <= safe}
    life.promised -= life.dropped.keys()
    return life


def last_number(path: Path) -> int | None:
    """The newest number of a producer that may be at work."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LAST_BYTES))
        tail = file.read()
    numbers = [int(rest.split()[0]) for kind, rest in _lines(tail) if kind == "made"]
    return numbers[-1] if numbers else None


def _lines(text: bytes) -> Iterator[tuple[str, str]]:
    """Whole lines: the word before the first space, and the rest."""
    for line in text.split(b"\n")[:-1]:
        kind, _, rest = line.decode().partition(" ")
        yield kind, rest
