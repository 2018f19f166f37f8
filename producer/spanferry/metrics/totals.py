"""A process's account over all that it has enabled, and who is told of it.

`stats()` begins again with each `enable()`; a counter must not, and what is sent while a client
closes counts as well. So this keeps what clients before the latest one have counted.
"""

import os
from collections.abc import Callable
from typing import Final, TypeAlias

from msgspec import Struct

from spanferry.log import say_once
from spanferry.metrics.rows import ROWS, Kind, Row

__all__ = ["Account", "follow", "listeners", "look", "tell"]

Counted: TypeAlias = dict[tuple[str, str], float]

listeners: Final[list[Callable[[bool], None]]] = []
"""Called twice a second on the sender's thread with False; with True by a thread that has flushed
because the end is near. Forked processes inherit them."""

_state: tuple[Counted, Callable[[], Struct] | None] = ({}, None)
"""What clients that have ended have counted, and the latest's account. Always replaced whole."""


class Account(Struct, frozen=True):
    """All numbers of one moment."""

    now: Struct
    past: Counted
    latest: Struct

    def read(self, row: Row) -> dict[str, float]:
        """A metric's numbers, by the label's value."""
        if row.kind is not Kind.COUNTER:
            return row.read(self.now)
        found = row.read(self.latest)
        return {value: self.past.get((row.name, value), 0) + found[value] for value in found}


def follow(account: Callable[[], Struct] | None) -> None:
    """A client is about to begin, None: the latest has ended, and is let go of with what it holds."""
    global _state  # noqa: PLW0603  the process has one
    past, before = _state
    if before is not None:
        until_now = look(before())
        past = {
            (row.name, value): number
            for row in ROWS
            if row.kind is Kind.COUNTER
            for value, number in until_now.read(row).items()
        }
    _state = (past, account)


def look(now: Struct) -> Account:
    """What there is to read; `now` is what `stats()` says. Any thread may ask."""
    past, latest = _state
    return Account(now, past, now if latest is None else latest())


def tell(*, last: bool = False) -> None:
    """Have the listeners look at the account. Never raises."""
    for listener in listeners:
        try:
            listener(last)
        except Exception as error:  # noqa: BLE001  the sender must not stop for it
            say_once("metrics", "the metrics could not be copied: %r", error)


def _after_fork() -> None:
    global _state  # noqa: PLW0603  the process has one
    _state = ({}, _state[1])


os.register_at_fork(after_in_child=_after_fork)
