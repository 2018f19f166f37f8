"""Giant values, recorded so that the app's other threads have their turns meanwhile.

Whoever is in a C call has the interpreter for all of it: of 10 MB some 10 ms, for which every other thread
of the process waits. So where spans of a name have been giants before, their values are written in pieces,
and between two pieces whoever waits goes first. Who records no giants pays nothing for it, not even a look
at a value's size; the first giant of a name goes in one call for each of its values.
"""

import os
import time
from collections.abc import Callable
from typing import Any, Final, cast

from spanferry.process import PROCESS
from spanferry.values import STRICT, dumps

__all__ = ["GIANT_BYTES", "NAMES_MAX", "PIECE_BYTES", "encode_in_pieces", "give_way", "remember"]

GIANT_BYTES: Final = 1024 * 1024
"""Spans with more are giants: some 1 ms for their values."""

PIECE_BYTES: Final = 256 * 1024
"""About what is written in one call: some 0.3 ms."""

NAMES_MAX: Final = 1_000
"""Names of spans that are remembered."""

_NAME_CHARS_MAX: Final = 250
"""Of a name that is remembered. A longer one, such as a path that a client has made up, is rather not
the name of others."""

_RUN_MAX: Final = 1_000
"""Members of a container that are written in one call."""

_NODES_MAX: Final = 1_000
"""Of a value that is not large; a larger one need not be."""

_DEPTH_MAX: Final = 8
_PARTS_MAX: Final = 20_000
"""What is below that, or comes after so many, goes in one call."""

give_way: Final[Callable[[], object]] = getattr(os, "sched_yield", lambda: time.sleep(0))
"""Let go of the interpreter for a moment; whoever waits for it and has a core gets it."""


def remember(name: object) -> None:
    """A span of that name was a giant."""
    giants = PROCESS.giants
    if type(name) is str and len(name) <= _NAME_CHARS_MAX and len(giants) < NAMES_MAX:
        giants.add(name)
        PROCESS.roomy = False


def encode_in_pieces(value: object) -> bytes:
    """What `dumps(value, None, STRICT)[:-1]` gives, and other threads in between. Raises what that raises.

    Another thread that changes the value meanwhile may be seen in some of its containers and not in
    others: none is read while it changes.
    """
    pieces = _Pieces()
    pieces.add(value, 0)
    made = pieces.made
    return made[0] if len(made) == 1 else b"".join(made)


class _Pieces:
    """One walk over one value."""

    __slots__ = ("_bytes", "_parts_left", "made")

    def __init__(self) -> None:
        self.made: list[bytes] = []
        self._bytes = 0
        self._parts_left = _PARTS_MAX

    def add(self, value: object, depth: int) -> None:
        """Write the value, whole where that is quick."""
        self._parts_left -= 1
        if depth > _DEPTH_MAX or self._parts_left < 0 or not _is_large(value):
            self._wrote(dumps(value, None, STRICT)[:-1])
        elif type(value) is str:
            self._text(value)
        elif type(value) is dict:
            self._members(list(value.items()), depth, dict)
        else:
            self._members(list(cast("list[Any] | tuple[Any, ...]", value)), depth, list)

    def _wrote(self, text: bytes) -> None:
        self.made.append(text)
        self._bytes += len(text)
        if self._bytes >= PIECE_BYTES:
            self._bytes = 0
            give_way()

    def _text(self, value: str) -> None:
        self.made.append(b'"')
        for at in range(0, len(value), PIECE_BYTES):
            self._wrote(dumps(value[at : at + PIECE_BYTES], None, STRICT)[1:-2])
        self.made.append(b'"')

    def _members(
        self, members: list[Any], depth: int, container: Callable[[list[Any]], object]
    ) -> None:
        """Large ones by themselves; of others as many at a time as make a piece, as those before were."""
        between, closing = (b"{", b"}") if container is dict else (b"[", b"]")
        at, count = 0, 1
        if not members:  # another thread has emptied it
            self.made.append(between)
        while at < len(members):
            self.made.append(between)
            between = b","
            some = members[at : at + count]
            large = next((place for place, one in enumerate(some) if _is_large(one)), len(some))
            if large == 0:
                self._large(some[0], depth, is_pair=container is dict)
                at, count = at + 1, 1
                continue
            text = dumps(container(some[:large]), None, STRICT)[1:-2]
            self._wrote(text)
            at += large
            count = min(2 * large, large * PIECE_BYTES // max(len(text), 1), _RUN_MAX) or 1
        self.made.append(closing)

    def _large(self, member: Any, depth: int, *, is_pair: bool) -> None:
        if is_pair:
            key, member = member
            # with a member, because a key alone may be what no key can be
            self.made.append(dumps({key: 0}, None, STRICT)[1:-3])
        self.add(member, depth + 1)


def _is_large(value: object) -> bool:
    """Whether it is worth a walk: by its texts, or by how many parts it has."""
    size, nodes = 0, 0
    waiting = [value]
    while waiting:
        one = waiting.pop()
        kind = type(one)
        if kind is str:
            size += len(cast("str", one))
            if size > PIECE_BYTES:
                return True
        elif kind is dict or kind is list or kind is tuple:
            members = cast("dict[Any, Any] | list[Any] | tuple[Any, ...]", one)
            nodes += len(members)
            if nodes > _NODES_MAX:
                return True
            waiting += members.values() if type(members) is dict else members
    return False
