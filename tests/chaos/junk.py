"""Records in the traces' topic that nobody can read, from somebody who has no business there."""

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from tests.chaos.faults import Plan

__all__ = ["Junk"]

VALUES = (b"\x01junk", b"", b"\x07of a later version", b"\x01\x93\x09\x01\x02", b'{"json": true}')
REQUEST_MS = 120_000
AGAIN_S = 1.0


class Junk:
    """Sends as many as the plan says, spread over its time; leaving waits until Kafka has them.

    A record may come twice where a broker dies: how many there are Kafka itself says.
    """

    def __init__(self, bootstrap_servers: str, topic: str, plan: Plan) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._topic = topic
        self._left = plan.junk
        self._apart_s = plan.seconds * 0.8 / max(1, plan.junk)
        self._pool = ThreadPoolExecutor(1)
        self._sending: Future[None] | None = None

    def __enter__(self) -> Self:
        self._sending = self._pool.submit(lambda: asyncio.run(self._send_all()))
        return self

    def __exit__(self, *error: object) -> None:
        if any(error):
            self._left = 0
        self._pool.shutdown()
        if self._sending is not None and not any(error):
            self._sending.result()

    async def _send_all(self) -> None:
        while self._left > 0:
            try:
                await self._send()
            except KafkaError:
                await asyncio.sleep(AGAIN_S)

    async def _send(self) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap_servers,
            enable_idempotence=True,
            request_timeout_ms=REQUEST_MS,
        )
        async with producer:
            while self._left > 0:
                await asyncio.sleep(self._apart_s)
                value = VALUES[self._left % len(VALUES)]
                await producer.send_and_wait(self._topic, value, key=b"%d" % self._left)
                self._left -= 1
