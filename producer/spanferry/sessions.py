"""Sessions: one Kafka producer's life after another's, and what is said of the time between."""

import asyncio
import time
from typing import Final, Protocol

from msgspec import Struct

from spanferry.buffer import Buffer
from spanferry.connecting import Connection
from spanferry.dispatch import Dispatcher
from spanferry.log import logger, say_once
from spanferry.loop import Rest
from spanferry.settings import Settings
from spanferry.troubles import Trouble, TroubleKind, trouble_of

__all__ = ["SenderState", "Sessions"]

_BACKOFF_FIRST_S: Final = 0.2
_BACKOFF_MAX_S: Final = 5.0
_REMIND_FIRST_S: Final = 60.0
_REMIND_MAX_S: Final = 3600.0
_HEALTHY_S: Final = 60.0
"""A session that has lasted for so long closes the story of the trouble before it."""
_STOP_S: Final = 1.0

_UNSAID: Final = frozenset({TroubleKind.LOST, TroubleKind.REPLACED, TroubleKind.TOO_LARGE})
"""The next session begins at once, and says what is wrong if something still is."""

_HELD: Final = frozenset({TroubleKind.UNACKNOWLEDGED, TroubleKind.REFUSED})
"""What ends a session that had begun: said only where the next one cannot say it better."""


class SenderState(Struct):
    """What the sender says of itself."""

    connected: bool = False
    connects: int = 0
    last_error: str | None = None
    troubles: dict[str, int] = {}
    """Sessions that did not begin or did not last, by TroubleKind."""


class Host(Protocol):
    """The thread that sessions live on."""

    stopping: bool
    """Whether no other session is to follow."""

    def answer_flushes(self) -> None:
        """Tell those who wait for what is settled now."""
        ...

    async def pause(self, seconds: float, *, at_least_s: float = 0.0) -> None:
        """Sleep, but hardly where somebody waits for a flush."""
        ...


class Sessions:
    """Whatever ends a session, another one follows."""

    def __init__(
        self, settings: Settings, buffer: Buffer, dispatcher: Dispatcher, host: Host, rest: Rest
    ) -> None:
        self._settings = settings
        self._buffer = buffer
        self._dispatcher = dispatcher
        self._host = host
        self._rest = rest
        self._retired: set[asyncio.Future[None]] = set()
        self._away_since_s = time.monotonic()
        self._connected_at_s = 0.0
        self._reminders: dict[TroubleKind, _Reminder] = {}
        self._told = False
        self._held: Trouble | None = None
        self.state = SenderState()

    @property
    def away_s(self) -> float:
        """Since when there is no connection, while there is none."""
        return time.monotonic() - self._away_since_s

    async def run(self) -> None:
        """Until cancelled or stopped."""
        self._dispatcher.stager.collect_environment()
        backoff_s = _BACKOFF_FIRST_S
        while not self._host.stopping:
            connects = self.state.connects
            try:
                await self._session()
            except Exception as error:  # noqa: BLE001  the sender outlives whatever Kafka answers
                trouble = trouble_of(error, self._settings.topic)
                self._failed(trouble, begun=self.state.connects > connects)
            if self.state.connects > connects:
                backoff_s = _BACKOFF_FIRST_S
            if not self._host.stopping:
                await self._host.pause(backoff_s, at_least_s=_BACKOFF_FIRST_S)
                backoff_s = min(backoff_s * 2, _BACKOFF_MAX_S)

    async def finish(self) -> None:
        """Wait a moment for producers that are being ended."""
        if self._retired:
            await asyncio.wait(self._retired, timeout=_STOP_S)

    async def _session(self) -> None:
        """The life of one Kafka producer. Raises what ended it."""
        self._rest.load("aiokafka")
        connection = Connection(self._settings, patience_s=self._dispatcher.pace.patience_s)
        server = await connection.greet()
        producer = connection.producer(server)
        try:
            await connection.start()
            self._dispatcher.open(
                producer, sorted(await producer.partitions_for(self._settings.topic))
            )
            self._connected()
            while not self._host.stopping:
                connection.check()
                await self._dispatcher.turn()
                self._host.answer_flushes()
                await self._host.pause(self._dispatcher.linger_s)
        finally:
            began = self.state.connected
            if began:
                self._disconnected()
            try:
                await self._dispatcher.close()
                if began and self._host.stopping:
                    await self._dispatcher.reporter.last()
            finally:
                self._retire(connection)

    def _connected(self) -> None:
        away_s = self.away_s
        self._connected_at_s = time.monotonic()
        self.state.connected = True
        self.state.connects += 1
        servers = self._settings.bootstrap_servers
        if self._told:
            self._told = False
            logger.info("sending traces to %s again, after %.0f s", servers, away_s)
        elif self._held is None:
            say_once("connected", "sending traces to %s", servers, level=20)
        held, self._held = self._held, None
        if held is not None:
            self._say(held)

    def _disconnected(self) -> None:
        self.state.connected = False
        self._away_since_s = time.monotonic()
        if self._away_since_s - self._connected_at_s >= _HEALTHY_S:
            self._reminders.clear()

    def _failed(self, trouble: Trouble, *, begun: bool) -> None:
        kind = trouble.kind
        self.state.last_error = self._settings.masked(str(trouble))
        # A new dict, because other threads may be reading this one.
        count = self.state.troubles.get(kind, 0) + 1
        self.state.troubles = {**self.state.troubles, kind.value: count}
        logger.debug("a session ended (%s): %s", kind.value, self.state.last_error)
        self._held = None
        if begun and kind in _HELD:
            self._held = trouble
        elif kind not in _UNSAID:
            self._say(trouble)

    def _say(self, trouble: Trouble) -> None:
        """One line, and ever less often again."""
        now_s = time.monotonic()
        reminder = self._reminders.setdefault(trouble.kind, _Reminder(now_s))
        if now_s >= reminder.due_s:
            reminder.due_s = now_s + reminder.pause_s
            reminder.pause_s = min(reminder.pause_s * 2, _REMIND_MAX_S)
            self._told = True
            logger.warning("%s", self._said())

    def _said(self) -> str:
        folder = self._settings.spool_dir
        return (
            f"traces {f'go to the spool {folder}' if folder else 'wait'}: Kafka at "
            f"{self._settings.bootstrap_servers} (topic {self._settings.topic}): "
            f"{self.state.last_error}. {self._buffer.used_bytes} of {self._settings.buffer_bytes} "
            "bytes are buffered; retrying. `spanferry doctor` says more."
        )

    def _retire(self, connection: Connection) -> None:
        """End a producer beside what comes next: a dead broker lets it wait."""
        ending = asyncio.ensure_future(connection.end())
        self._retired.add(ending)
        ending.add_done_callback(self._retired.discard)


class _Reminder(Struct):
    """When a kind of trouble is said again, ever less often."""

    due_s: float
    pause_s: float = _REMIND_FIRST_S
