"""A TCP proxy that a test can make slow, thin, deaf or shut."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

_CHUNK = 16 * 1024


class Proxy:
    """Carries bytes between its port and the target's, in a thread of its own."""

    def __init__(self, port: int, target_port: int) -> None:
        self._port = port
        self._target_port = target_port
        self.delay_s = 0.0
        """Added to every piece, each way."""
        self.bytes_per_s = 0.0
        """Of all connections together, towards the target; 0 is no limit."""
        self.connections = 0
        """Accepted so far."""
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _loop, _context: None)  # it is cut in many places
        self._open = asyncio.Event()
        self._thin = asyncio.Lock()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._all: list[asyncio.StreamWriter] = []
        self._carrying: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._open.set()
        self.accept()

    def close(self) -> None:
        """End everything."""
        self.refuse()
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def accept(self) -> None:
        """Listen again."""
        self._do(self._listen())

    def refuse(self) -> None:
        """Listen no more, and cut what there is."""
        self._do(self._stop())
        self.cut()

    def cut(self) -> None:
        """Reset all connections."""
        self._do(self._cut())

    def freeze(self) -> None:
        """Accept, and carry nothing."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def thaw(self) -> None:
        """Go on; what has come meanwhile goes out."""
        self._loop.call_soon_threadsafe(self._open.set)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self._port)

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _end(self) -> None:
        await (
            _turns()
        )  # what was accepted last begins: it would close nothing where it is cancelled before
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await self._cut()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self._all:
            writer.transport.abort()
        async with asyncio.timeout(30):
            await asyncio.gather(*(one.wait_closed() for one in self._all), return_exceptions=True)
        await _turns()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Known from its first moment: a task that is cancelled before it begins closes nothing."""
        self.connections += 1
        self._writers.add(writer)
        self._all.append(writer)
        task = self._loop.create_task(self._join(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._target_port)
            ends.append(far)
            self._writers.add(far)
            self._all.append(far)
            await asyncio.gather(
                self._carry(reader, far, thin=True), self._carry(far_reader, writer, thin=False)
            )
        except OSError:
            return
        finally:
            self._writers -= {*ends}
            for end in ends:
                end.transport.abort()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, thin: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(_CHUNK):
                await self._open.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if thin and self.bytes_per_s:
                    async with self._thin:
                        await asyncio.sleep(len(piece) / self.bytes_per_s)
                writer.write(piece)
                await writer.drain()
        writer.transport.abort()


async def _turns() -> None:
    """Of the loop: as many as it takes to accept a connection, or to close one."""
    for _ in range(5):
        await asyncio.sleep(0)


@contextlib.contextmanager
def proxy(port: int, target_port: int) -> Iterator[Proxy]:
    """One that carries while the test runs."""
    one = Proxy(port, target_port)
    try:
        yield one
    finally:
        one.close()
