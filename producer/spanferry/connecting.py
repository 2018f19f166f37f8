"""Connecting: how the sender gets to Kafka, and how it knows that it still is there.

Everything runs on the sender's loop; aiokafka is loaded here and on that thread alone.
"""

import asyncio
import contextlib
import importlib
import inspect
import time
import weakref
from typing import Any, Final

from spanferry.log import quiet
from spanferry.native import new_thread
from spanferry.settings import Settings
from spanferry.troubles import (
    TokenError,
    Trouble,
    TroubleKind,
    refused_sign_in,
    trouble_at,
    trouble_of,
    worst,
)
from spanferry_schemas.security import SecurityError

__all__ = ["Connection"]

_GREETING_S: Final = 10.0
_LOST_S: Final = 3.0
"""For so long no broker may be reachable before the session ends: a restart, a leader's move are
shorter, or are met by the next session."""
_METADATA_AGE_S: Final = 60.0
_IDLE_S: Final = 540.0
_TOKEN_S: Final = 10.0
_TOPIC_S: Final = 3.0
_STOP_S: Final = 1.0


class Connection:
    """One session's way to Kafka: `greet`, then `producer`, then `check` again and again."""

    def __init__(self, settings: Settings, *, patience_s: float) -> None:
        """Reads certificates and passwords. Raises Trouble where that fails."""
        quiet_aiokafka()
        self._settings = settings
        self._request_s = patience_s * 0.75
        self._greeting_s = max(_GREETING_S, self._request_s / 2)
        self._cluster_id: str | None = None
        self._replaced_by: str | None = None
        self._lost_since_s: float | None = None
        self._producer: Any = None
        self._starting: asyncio.Future[None] | None = None
        try:
            self._options = settings.client_options()
            if settings.signs_in and settings.sasl_mechanism == "OAUTHBEARER":
                self._options["sasl_oauth_token_provider"] = _tokens(settings)
        except SecurityError as error:
            raise Trouble(TroubleKind.SETTINGS, str(error)) from None

    async def greet(self) -> str:
        """The first of the brokers that lets us in, `host:port`. Raises Trouble.

        One connection that says why it fails: aiokafka's own would only say that it did.
        """
        from aiokafka.conn import collect_hosts  # noqa: PLC0415  on the sender's thread

        try:
            hosts = collect_hosts(self._settings.bootstrap_servers)
        except ValueError as error:
            raise Trouble(
                TroubleKind.SETTINGS,
                f"bootstrap_servers={self._settings.bootstrap_servers!r} is not host:port",
            ) from error
        troubles: list[Trouble] = []
        for host, port, _ in hosts:
            address = f"{host}:{port}"
            try:
                self._cluster_id = await self._greet(host, port)
            except Exception as error:  # noqa: BLE001  whatever a stranger's port may answer
                troubles.append(trouble_at(address, error, self._settings))
            else:
                return address
        raise worst(troubles)

    async def _greet(self, host: str, port: int) -> str | None:
        from aiokafka.conn import AIOKafkaConnection  # noqa: PLC0415  on the sender's thread
        from aiokafka.errors import KafkaConnectionError  # noqa: PLC0415

        connection = AIOKafkaConnection(
            host,
            port,
            client_id=self._settings.client_id,
            request_timeout_ms=int(self._greeting_s * 1000),
            **self._options,
        )
        with_token = "sasl_oauth_token_provider" in self._options
        signed_in = False
        try:
            async with asyncio.timeout(self._greeting_s):
                await connection.connect()
                signed_in = True
                metadata = await self._ask_for_the_topic(connection)
        except KafkaConnectionError:
            if not (signed_in and with_token):
                raise
            metadata = None
        finally:
            connection.close()
        if metadata is None or (with_token and not metadata.brokers):
            # A token is refused only when the next thing is asked, and with an empty answer.
            raise refused_sign_in(f"{host}:{port}", self._settings)
        return _cluster_id_in(metadata)

    async def _ask_for_the_topic(self, connection: Any) -> Any:
        """The cluster's answer. Raises Trouble where the topic is not there after a while, in which a
        cluster that makes topics by itself may make it."""
        from aiokafka import errors  # noqa: PLC0415  on the sender's thread

        topic = self._settings.topic
        deadline_s = time.monotonic() + _TOPIC_S
        while True:
            metadata = await _ask(connection, topic)
            kind = next((errors.for_code(one[0]) for one in metadata.topics), errors.NoError)
            if kind is errors.TopicAuthorizationFailedError:
                raise trouble_of(kind(), topic)
            if kind is not errors.UnknownTopicOrPartitionError:
                return metadata
            if time.monotonic() >= deadline_s:
                raise Trouble(
                    TroubleKind.TOPIC,
                    f"there is no topic {topic!r}, or this user may not see it: create it with "
                    "`spanferry topics create`",
                )
            await asyncio.sleep(_TOPIC_S / 10)

    def producer(self, server: str) -> Any:
        """An idempotent producer, to be started. Batches are built by us, so its own batching hardly
        matters; those that zstd packs come packed."""
        from aiokafka import AIOKafkaProducer  # noqa: PLC0415  on the sender's thread

        settings = self._settings
        own = settings.compression in {"none", "zstd"}
        self._producer = AIOKafkaProducer(
            bootstrap_servers=server,
            client_id=settings.client_id,
            acks="all",
            enable_idempotence=True,
            compression_type=None if own else settings.compression,
            max_batch_size=settings.batch_bytes,
            max_request_size=max(settings.batch_bytes, settings.record_bytes_max) + 65_536,
            request_timeout_ms=int(self._request_s * 1000),
            metadata_max_age_ms=int(_METADATA_AGE_S * 1000),
            connections_max_idle_ms=int(_IDLE_S * 1000),
            **self._options,
        )
        self._watch(self._producer.client)
        return self._producer

    async def start(self) -> None:
        """Start the producer. Raises Trouble where no broker can be reached under the address that
        it announces, for which aiokafka would wait for ever."""
        starting = self._starting = asyncio.ensure_future(self._producer.start())
        deadline_s = time.monotonic() + self._request_s * 2
        while not starting.done():
            await asyncio.wait({starting}, timeout=0.1)
            if self._is_lost():
                raise self._unreachable_announcement()
            if time.monotonic() > deadline_s:
                raise Trouble(TroubleKind.SILENT, "Kafka answers, but gives no producer id")
        starting.result()

    def check(self) -> None:
        """Raise Trouble where this session cannot go on."""
        if self._replaced_by is not None:
            raise Trouble(
                TroubleKind.REPLACED,
                f"another cluster ({self._replaced_by}, not {self._cluster_id}) answers now",
            )
        if self._is_lost():
            raise Trouble(TroubleKind.LOST, "the connection to Kafka is lost")

    async def end(self) -> None:
        """The producer is done for: nothing of it goes on trying, whoever cancels this in the middle."""
        try:
            if self._starting is not None and not self._starting.done():
                # Where it begins aiokafka would lose a connection that is cancelled.
                await asyncio.wait({self._starting}, timeout=_STOP_S / 2)
                self._starting.cancel()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._producer.stop(), _STOP_S)
            with contextlib.suppress(Exception):  # which stop has not reached where a broker hangs
                await asyncio.wait_for(self._producer.client.close(), _STOP_S)
        finally:
            self._hang_up()

    def _hang_up(self) -> None:
        """On every broker, whatever was still to be said."""
        for connection in list(self._producer.client._conns.values()):  # noqa: SLF001  no other way
            with contextlib.suppress(Exception):
                if connection._writer is not None:  # noqa: SLF001  its close waits for what is unsent
                    connection._writer.transport.abort()  # noqa: SLF001
                connection.close()

    def _is_lost(self) -> bool:
        since_s = self._lost_since_s
        return since_s is not None and time.monotonic() - since_s >= _LOST_S

    def _unreachable_announcement(self) -> Trouble:
        brokers = self._producer.client.cluster.brokers()
        announced = ", ".join(f"{one.host}:{one.port}" for one in brokers)
        return Trouble(
            TroubleKind.ADVERTISED,
            f"Kafka answers, but announces itself as {announced}, which cannot be reached from here: "
            "set the brokers' advertised.listeners to addresses that the apps can reach",
        )

    def _watch(self, client: Any) -> None:
        """Have every new connection of aiokafka's ask first which cluster it has met.

        A producer's id means another producer in another cluster, which may take our batches for
        repetitions of that one's, and acknowledge them without storing anything.
        """
        connect = client._get_conn  # noqa: SLF001  there is no other place between connect and send
        met: weakref.WeakSet[Any] = weakref.WeakSet()

        async def get_conn(node_id: Any, **more: Any) -> Any:
            connection = await connect(node_id, **more)
            if connection is not None and connection not in met:
                if not await self._is_ours(connection):
                    connection.close()
                    connection = None
                else:
                    met.add(connection)
            if connection is not None:
                self._lost_since_s = None
            elif self._lost_since_s is None:
                self._lost_since_s = time.monotonic()
            return connection

        client._get_conn = get_conn  # noqa: SLF001

    async def _is_ours(self, connection: Any) -> bool:
        from aiokafka.errors import KafkaError  # noqa: PLC0415  on the sender's thread

        try:
            found = _cluster_id_in(await _ask(connection))
        except (TimeoutError, KafkaError, OSError):
            return False
        if found != self._cluster_id:
            self._replaced_by = found or "unnamed"
            return False
        return True


class _Tokens:
    """A token for every new connection, as aiokafka asks for it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def token(self) -> str:
        """From a thread of its own, because the provider may block: the sender goes on meanwhile.

        Raises TokenError, which never shows what the provider's errors say: it may be secret.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()

        def settle(token: object, problem: str | None) -> None:
            if answer.done():
                return
            if problem is None and isinstance(token, str) and token:
                answer.set_result(token)
            else:
                words = problem or "sasl_oauth_token_provider gave no text"
                answer.set_exception(TokenError(words))

        def ask() -> None:
            token: object = None
            problem: str | None = None
            try:
                token = self._settings.token_source()()
                if inspect.iscoroutine(token):
                    token = asyncio.run(token)
            except SecurityError as error:
                problem = str(error)
            except BaseException as error:  # noqa: BLE001  somebody else's code
                name = type(error).__name__
                problem = f"sasl_oauth_token_provider raised {name}; what it says may be secret"
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, token, problem)

        new_thread(
            ask, "spanferry-token"
        ).start()  # a greenlet would wait for this thread, which waits
        try:
            return await asyncio.wait_for(answer, _TOKEN_S)
        except TimeoutError:
            words = f"sasl_oauth_token_provider gave nothing within {_TOKEN_S:.0f} s"
            raise TokenError(words) from None


def _tokens(settings: Settings) -> _Tokens:
    from aiokafka.abc import AbstractTokenProvider  # noqa: PLC0415  on the sender's thread

    AbstractTokenProvider.register(_Tokens)
    return _Tokens(settings)


async def _ask(connection: Any, *topics: str) -> Any:
    """What the cluster at the other end says of itself."""
    from aiokafka.protocol.metadata import MetadataRequest  # noqa: PLC0415  on the sender's thread

    return await connection.send(MetadataRequest(list(topics)))


def _cluster_id_in(metadata: Any) -> str | None:
    """None where its Kafka is too old to have one."""
    return getattr(metadata, "cluster_id", None)


def quiet_aiokafka() -> None:
    """Load it, and have it say nothing in this session: the sender says itself what is wrong."""
    importlib.import_module("aiokafka.producer")  # 200 ms, on this thread
    quiet("aiokafka")
