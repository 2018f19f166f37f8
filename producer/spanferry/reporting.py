"""Reports: what this process has made and dropped, said on the traces' topic for workers' accounts.

Seldom, and on the sender's thread alone. A report that does not arrive costs nothing: the next one
says it all again.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from msgspec.structs import replace

from spanferry.lanes import Lanes
from spanferry_schemas import Report, encode

__all__ = ["Reporter"]

_REPORT_S: Final = 10.0
"""While something changes, a report goes out so often."""
_LAST_S: Final = 0.3
"""How long the last one may take."""


class Reporter:
    """Lives on the sender's loop, through several producers one after another.

    `counted` gives the parcels that were dropped, by reason, and how many were moved to disk.
    """

    def __init__(
        self,
        producer_id: bytes,
        topic: str,
        lanes: Lanes,
        counted: Callable[[], tuple[dict[str, int], int]],
    ) -> None:
        self._topic = topic
        self._lanes = lanes
        self._counted = counted
        self._said = Report(producer_id, made_ns=0, started_ns=time.time_ns())
        self._due_s = time.monotonic() + _REPORT_S
        self._producer: Any = None
        self._new_batch: Callable[[], Any] | None = None
        self._task: asyncio.Task[None] | None = None
        self.failure: Exception | None = None
        """What broke a report: the producer may be of no use any more."""

    def open(self, producer: Any, new_batch: Callable[[], Any]) -> None:
        """A producer is connected."""
        self._producer, self._new_batch = producer, new_batch
        self.failure = None

    async def close(self) -> None:
        """The producer ends."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_LAST_S)

    def turn(self) -> None:
        """Send a report in the background, if one is due."""
        now_s = time.monotonic()
        if now_s < self._due_s or (self._task is not None and not self._task.done()):
            return
        self._due_s = now_s + _REPORT_S
        report = self._news(last=False)
        if report is not None:
            self._task = asyncio.ensure_future(self._send(report))

    async def last(self) -> None:
        """Say what is left to say before the process ends, if Kafka takes it at once.

        Who cancels this waits for it all the same.
        """
        report = self._news(last=True)
        if report is None or self._producer is None or self.failure is not None:
            return
        sending = asyncio.ensure_future(self._send(report))
        try:
            await asyncio.wait({sending}, timeout=_LAST_S)
        except asyncio.CancelledError:
            await asyncio.wait({sending}, timeout=_LAST_S)
            raise
        finally:
            sending.cancel()

    def _news(self, *, last: bool) -> Report | None:
        """What there is to say; None where nothing has changed."""
        said = self._said
        dropped, spooled = self._counted()
        dropped = {reason: count for reason, count in dropped.items() if count}
        acknowledged = self._lanes.acknowledged
        if (acknowledged, dropped, spooled) == (said.acknowledged, said.dropped, said.spooled):
            return None
        return replace(
            said,
            made_ns=time.time_ns(),
            acknowledged=acknowledged,
            dropped=dropped,
            spooled=spooled,
            last=last,
        )

    async def _send(self, report: Report) -> None:
        """Without header: reports have no number."""
        assert self._new_batch is not None  # set before the first turn
        key = report.producer_id
        batch = self._new_batch()
        batch.append(
            timestamp=report.made_ns // 1_000_000, key=key, value=encode(report), headers=[]
        )
        batch.close()
        try:
            partition = self._lanes.of_key(key).partition
            sent = await self._producer.send_batch(batch, self._topic, partition=partition)
            await sent
        except Exception as error:  # noqa: BLE001  `Dispatcher.turn` raises it
            self.failure = error
        else:
            self._said = report
