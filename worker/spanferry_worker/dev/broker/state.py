"""What every request handler of the broker works on."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from spanferry_worker.dev.broker.groups import Group
from spanferry_worker.dev.broker.storage import Storage

__all__ = ["NODE_ID", "BrokerState", "Handler"]

NODE_ID = 1


class BrokerState:
    """Topics, groups, the address to announce, and a bell for fetches that wait."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.groups: dict[str, Group] = {}
        self.host = ""
        self.port = 0
        self._producers = 0
        self._members = 0
        self._bell = asyncio.Event()

    def group(self, group_id: str) -> Group:
        """A group, made where it does not exist."""
        return self.groups.setdefault(group_id, Group(group_id))

    def new_producer_id(self) -> int:
        """An idempotent producer's id, used once."""
        self._producers += 1
        return self._producers

    def new_member_id(self, client_id: str) -> str:
        """A group member's id, used once."""
        self._members += 1
        return f"{client_id}-{self._members}"

    def ring(self) -> None:
        """Something was appended."""
        self._bell.set()
        self._bell = asyncio.Event()

    async def appended(self, timeout_s: float) -> None:
        """Wait until something is appended, or the time is over."""
        bell = self._bell
        try:
            async with asyncio.timeout(timeout_s):
                await bell.wait()
        except TimeoutError:
            return


Handler = Callable[[BrokerState, Any, str], Awaitable[tuple[Any, ...] | None]]
"""A request and its client's id in; the response's fields in the schema's order out, or no response."""
