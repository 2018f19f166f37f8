"""Very many decisions in little memory: 24 bytes for every record of a trace that was cut or dropped.

An entry is the trace's id (16 bytes), what was decided (1), and the offset of one record (7); a trace
of several records has several. They are kept in sorted blocks. What is new lies unsorted in a small one.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from struct import Struct as Layout
from struct import pack, unpack
from typing import Final, NamedTuple

import msgspec

from spanferry_worker.stages.sample.decision import Outcome

__all__ = ["ENTRY_BYTES", "Index", "Known", "decode_decisions", "encode_decisions", "entries"]

ENTRY_BYTES: Final = 24
_ID_BYTES: Final = 16
_OFFSET_BYTES: Final = 7
_NOWHERE: Final = 2**56 - 1
"""Instead of an offset: that of its records is not known."""
_OFFSETS_MAX: Final = 1_000
"""Of one trace; with more it counts as not known where they lie."""
_FRESH_BYTES: Final = 1_024 * ENTRY_BYTES
"""So much may lie unsorted."""
_FAN: Final = 8
"""Blocks of one size that become one of the next."""
_TIER_MAX: Final = 2
"""65,536 entries: to sort more at once would take too long."""
_BLOCK_BYTES: Final = 200
"""What a block takes beside its entries."""
_WEIGHT: Final = 255
"""In an entry's place of the outcome: the rest is the trace's weight."""
_CODES: Final = {Outcome.DROP: 0, Outcome.SKELETON: 1, Outcome.FULL: 2}
"""Where several were decided on a trace, the highest holds: so much of it is stored."""
_USUAL: Final = frozenset({0.0, 1.0})
"""Weights that are not written."""
_OUTCOMES: Final = {code: outcome for outcome, code in _CODES.items()}
_TAIL: Final = Layout(">Q")


class Known(NamedTuple):
    """What was decided on a trace."""

    outcome: Outcome
    weight: float
    offsets: tuple[int, ...]
    """Of its records, rising; empty where they are not known."""


class _Decisions(msgspec.Struct, array_like=True, frozen=True):
    """The value of a record that keeps decisions over restarts; append-only."""

    group: str
    entries: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Decisions)


def encode_decisions(group: str, some: bytes) -> bytes:
    """Entries as a record's value. `group`: whose workers have decided so."""
    return _encoder.encode(_Decisions(group, some))


def decode_decisions(value: bytes | None, group: str) -> bytes:
    """The entries in a record; empty where they are another group's, or cannot be read."""
    if not value:
        return b""
    try:
        found = _decoder.decode(value)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return b""
    if found.group != group or len(found.entries) % ENTRY_BYTES:
        return b""
    return found.entries


def entries(
    trace_id: bytes, outcome: Outcome, offsets: Sequence[int], weight: float = 1.0
) -> bytes:
    """One decision. Offsets that come in a later one for the same trace are added to these."""
    code = _CODES[outcome] << 56
    if not 0 < len(offsets) <= _OFFSETS_MAX:
        offsets = (_NOWHERE,)
    if weight in _USUAL and len(offsets) == 1:
        return trace_id + _TAIL.pack(code | offsets[0])
    parts = [trace_id + _TAIL.pack(code | place) for place in offsets]
    if weight not in _USUAL:
        parts.append(trace_id + bytes((_WEIGHT,)) + pack(">d", weight)[:_OFFSET_BYTES])
    return b"".join(parts)


class _Block(NamedTuple):
    """Sorted entries."""

    entries: bytes
    made_ms: int
    """When the newest of them came."""
    tier: int

    def tails(self, trace_id: bytes) -> Iterator[bytes]:
        some = self.entries
        low, high = 0, len(some) // ENTRY_BYTES
        while low < high:
            middle = (low + high) // 2
            at = middle * ENTRY_BYTES
            if some[at : at + _ID_BYTES] < trace_id:
                low = middle + 1
            else:
                high = middle
        at = low * ENTRY_BYTES
        while some[at : at + _ID_BYTES] == trace_id:
            yield some[at + _ID_BYTES : at + ENTRY_BYTES]
            at += ENTRY_BYTES


class _Shelf:
    """The decisions of one place."""

    __slots__ = ("blocks", "forgot", "fresh", "fresh_ms")

    def __init__(self) -> None:
        self.fresh = bytearray()
        self.fresh_ms = 0
        self.blocks: list[_Block] = []
        self.forgot = False

    def tails(self, trace_id: bytes) -> Iterator[bytes]:
        at = self.fresh.find(trace_id)
        while at >= 0:
            if at % ENTRY_BYTES == 0:
                yield bytes(self.fresh[at + _ID_BYTES : at + ENTRY_BYTES])
            at = self.fresh.find(trace_id, at + 1)
        for block in self.blocks:
            yield from block.tails(trace_id)

    @property
    def oldest(self) -> _Block | None:
        return min(self.blocks, key=lambda block: block.made_ms, default=None)

    @property
    def held_bytes(self) -> int:
        return len(self.fresh) + sum(len(one.entries) + _BLOCK_BYTES for one in self.blocks)

    def seal(self) -> None:
        """Sort what is fresh; make one block of several small ones."""
        if self.fresh:
            self.blocks.append(_Block(_sorted([bytes(self.fresh)]), self.fresh_ms, 0))
            self.fresh.clear()
        for tier in range(_TIER_MAX):
            same = [block for block in self.blocks if block.tier == tier]
            if len(same) < _FAN:
                break
            self.blocks = [block for block in self.blocks if block.tier != tier]
            whole = _sorted([block.entries for block in same])
            self.blocks.append(_Block(whole, max(block.made_ms for block in same), tier + 1))


class Index:
    """Decisions by place and trace, in at most `bytes_max`: the oldest go first, whatever their place.

    A place is what is forgotten as a whole: a partition during one assignment.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._shelves: dict[Hashable, _Shelf] = {}
        self.held_bytes = 0

    def add(self, place: Hashable, some: bytes, now_ms: int) -> None:
        """Decisions that were made now: `entries` of them."""
        shelf = self._shelf(place)
        shelf.fresh += some
        shelf.fresh_ms = now_ms
        self.held_bytes += len(some)
        if len(shelf.fresh) >= _FRESH_BYTES:
            self._seal(shelf)
        self._make_room()

    def add_older(self, place: Hashable, some: Iterable[bytes], made_ms: int) -> None:
        """Decisions that were made before, until then."""
        block = _Block(_sorted(some), made_ms, _TIER_MAX)
        if block.entries:
            self._shelf(place).blocks.append(block)
            self.held_bytes += len(block.entries) + _BLOCK_BYTES
            self._make_room()

    def find(self, place: Hashable, trace_id: bytes) -> Known | None:
        """What was decided on a trace; None where that is not known, or not any more."""
        shelf = self._shelves.get(place)
        if shelf is None or len(trace_id) != _ID_BYTES:
            return None
        return _known(shelf.tails(trace_id))

    def place_bytes(self, place: Hashable) -> int:
        """What the decisions of a place take."""
        shelf = self._shelves.get(place)
        return 0 if shelf is None else shelf.held_bytes

    def forgot(self, place: Hashable) -> bool:
        """Whether older decisions of a place had to go."""
        shelf = self._shelves.get(place)
        return shelf is not None and shelf.forgot

    def keep(self, places: Iterable[Hashable]) -> None:
        """Forget all other places."""
        kept = set(places)
        for place in [place for place in self._shelves if place not in kept]:
            self.held_bytes -= self._shelves.pop(place).held_bytes

    def _shelf(self, place: Hashable) -> _Shelf:
        shelf = self._shelves.get(place)
        if shelf is None:
            shelf = self._shelves[place] = _Shelf()
        return shelf

    def _seal(self, shelf: _Shelf) -> None:
        self.held_bytes -= shelf.held_bytes
        shelf.seal()
        self.held_bytes += shelf.held_bytes

    def _make_room(self) -> None:
        while self.held_bytes > self._bytes_max:
            found = [(one.oldest, one) for one in self._shelves.values()]
            blocks = [(block, shelf) for block, shelf in found if block is not None]
            if blocks:
                block, shelf = min(blocks, key=lambda pair: pair[0].made_ms)
                shelf.blocks.remove(block)
                shelf.forgot = True
                self.held_bytes -= len(block.entries) + _BLOCK_BYTES
                continue
            shelf = min(
                (one for one in self._shelves.values() if one.fresh), key=lambda one: one.fresh_ms
            )
            self.held_bytes -= len(shelf.fresh)
            shelf.fresh.clear()
            shelf.forgot = True


def _sorted(blocks: Iterable[bytes]) -> bytes:
    """All entries in order, each once."""
    some = b"".join(blocks)
    cut = [some[at : at + ENTRY_BYTES] for at in range(0, len(some), ENTRY_BYTES)]
    return b"".join(dict.fromkeys(sorted(cut)))


def _known(tails: Iterable[bytes]) -> Known | None:
    highest = -1
    weight = 1.0
    offsets: set[int] = set()
    for tail in tails:
        if tail[0] == _WEIGHT:
            (weight,) = unpack(">d", tail[1:] + b"\0")
            continue
        highest = max(highest, tail[0])
        offsets.add(int.from_bytes(tail[1:], "big"))
    outcome = _OUTCOMES.get(highest)
    if outcome is None:
        return None
    if _NOWHERE in offsets or len(offsets) > _OFFSETS_MAX:
        return Known(outcome, weight, ())
    return Known(outcome, weight, tuple(sorted(offsets)))
