"""note: what is decided above the watermark, as it is committed beside it.

Traces end in another order than they begin, so beyond the first undecided record many are decided. Who goes
on at the watermark reads them again; the note says which to pass over. Else a worker that goes on would write
them again, and wait for the rest of those that begin below the watermark.
"""

import base64
import binascii
import zlib
from typing import Final, NamedTuple

from spanferry_worker.stages.accounts import Outcome

__all__ = ["NOTE_CHARS_MAX", "RECORDS_MAX", "Decided", "read_note", "write_note"]

NOTE_CHARS_MAX: Final = 4_000
"""Kafka takes 4,096 beside an offset (`offset.metadata.max.bytes`)."""
RECORDS_MAX: Final = 32_768
"""Records beyond the watermark that a note tells of."""
_VERSION: Final = "1:"
_LEVEL: Final = 1
_SAID: Final = bytes.maketrans(bytes([Outcome.REPORT]), bytes([Outcome.UNDECIDED]))
"""Reports are read again: what they say is kept only once the watermark has passed them."""
_OUTCOMES: Final = frozenset(bytes(Outcome))


class Decided(NamedTuple):
    """What became of the records from an offset on, a byte for each; 0: it is not decided."""

    start: int
    outcomes: bytes

    @property
    def end(self) -> int:
        """One past the last record that it tells of."""
        return self.start + len(self.outcomes)

    def of(self, offset: int) -> Outcome:
        """What became of one."""
        at = offset - self.start
        return Outcome(self.outcomes[at]) if 0 <= at < len(self.outcomes) else Outcome.UNDECIDED


def write_note(outcomes: bytes) -> str:
    """What became of the records from the committed offset on; of too many it tells of the first."""
    rest = outcomes[:RECORDS_MAX].translate(_SAID).rstrip(b"\0")
    while rest:
        note = _VERSION + base64.b64encode(zlib.compress(rest, _LEVEL)).decode()
        if len(note) <= NOTE_CHARS_MAX:
            return note
        rest = rest[: len(rest) // 2].rstrip(b"\0")
    return ""


def read_note(offset: int, note: str) -> Decided | None:
    """What `write_note` wrote beside this offset; None for what another version or somebody else wrote."""
    if not note.startswith(_VERSION) or len(note) > NOTE_CHARS_MAX:
        return None
    try:
        packed = base64.b64decode(note[len(_VERSION) :], validate=True)
        outcomes = zlib.decompressobj().decompress(packed, RECORDS_MAX)
    except (binascii.Error, ValueError, zlib.error):
        return None
    return Decided(offset, outcomes) if outcomes and _OUTCOMES.issuperset(outcomes) else None
