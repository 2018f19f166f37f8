"""The broker's socket: frames in, each answered in its connection's order."""

import asyncio
import contextlib
from collections.abc import Mapping
from io import BytesIO
from typing import Any, Final, NamedTuple, Self

from aiokafka.protocol.admin import (
    ApiVersionRequest_v0,
    CreatePartitionsRequest_v1,
    CreateTopicsRequest_v3,
    DescribeConfigsRequest_v2,
    DescribeGroupsRequest_v2,
    ListGroupsRequest_v1,
)
from aiokafka.protocol.api import RequestStruct
from aiokafka.protocol.commit import OffsetCommitRequest_v3, OffsetFetchRequest_v3
from aiokafka.protocol.coordination import FindCoordinatorRequest_v1
from aiokafka.protocol.fetch import FetchRequest_v11
from aiokafka.protocol.group import (
    HeartbeatRequest_v1,
    JoinGroupRequest_v5,
    LeaveGroupRequest_v1,
    SyncGroupRequest_v3,
)
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.protocol.offset import OffsetRequest_v3
from aiokafka.protocol.produce import ProduceRequest_v7
from aiokafka.protocol.transaction import InitProducerIdRequest_v0
from aiokafka.protocol.types import Int16, Int32, String

from spanferry_worker.dev.broker import admin, coordination, data
from spanferry_worker.dev.broker.errors import Code
from spanferry_worker.dev.broker.state import BrokerState, Handler
from spanferry_worker.dev.broker.storage import Storage

__all__ = ["RETENTION_BYTES", "EmbeddedBroker"]

RETENTION_BYTES: Final = 512 * 1024 * 1024
"""What all topics together may hold; above it the oldest records are forgotten."""

_FRAME_BYTES_MAX: Final = 100 * 1024 * 1024
"""As Kafka's socket.request.max.bytes; a longer frame closes the connection."""

_TICK_S: Final = 0.2
"""How often group members' deadlines are looked at."""


class _Api(NamedTuple):
    request: type[RequestStruct]
    handler: Handler


async def _api_versions(_state: BrokerState, _request: Any, _client_id: str) -> tuple[Any, ...]:
    """What this broker speaks: of each request the one version that aiokafka likes best."""
    spoken = [(key, api.request.API_VERSION) for key, api in _APIS.items()]
    return Code.NONE, [(key, version, version) for key, version in spoken]


_APIS: Final[Mapping[int, _Api]] = {
    api.request.API_KEY: api
    for api in (
        _Api(ProduceRequest_v7, data.produce),
        _Api(FetchRequest_v11, data.fetch),
        _Api(OffsetRequest_v3, data.list_offsets),
        _Api(MetadataRequest_v5, data.metadata),
        _Api(OffsetCommitRequest_v3, coordination.offset_commit),
        _Api(OffsetFetchRequest_v3, coordination.offset_fetch),
        _Api(FindCoordinatorRequest_v1, coordination.find_coordinator),
        _Api(JoinGroupRequest_v5, coordination.join_group),
        _Api(HeartbeatRequest_v1, coordination.heartbeat),
        _Api(LeaveGroupRequest_v1, coordination.leave_group),
        _Api(SyncGroupRequest_v3, coordination.sync_group),
        _Api(DescribeGroupsRequest_v2, coordination.describe_groups),
        _Api(ListGroupsRequest_v1, coordination.list_groups),
        _Api(ApiVersionRequest_v0, _api_versions),
        _Api(CreateTopicsRequest_v3, admin.create_topics),
        _Api(InitProducerIdRequest_v0, data.init_producer_id),
        _Api(DescribeConfigsRequest_v2, admin.describe_configs),
        _Api(CreatePartitionsRequest_v1, admin.create_partitions),
    )
}


class EmbeddedBroker:
    """One broker on one port of `host`; port 0 takes a free one. An async context manager."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        retention_bytes: int = RETENTION_BYTES,
    ) -> None:
        self._address = (host, port)
        self._state = BrokerState(Storage(retention_bytes))
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def bootstrap_servers(self) -> str:
        """`host:port`, once started."""
        return f"{self._state.host}:{self._state.port}"

    def create_topic(
        self, name: str, partitions: int, config: Mapping[str, str] | None = None
    ) -> None:
        """Make a topic. Raises ValueError where that is not possible."""
        code = self._state.storage.create(name, partitions, config or {})
        if code:
            raise ValueError(f"cannot create topic {name!r}: {code.name}")

    async def start(self) -> None:
        """Listen. Raises OSError where the port is taken."""
        host, port = self._address
        server = await asyncio.start_server(self._serve, host, port, limit=1 << 20)
        self._server = server
        self._state.host, self._state.port = server.sockets[0].getsockname()[:2]
        self._keep(self._tick())

    async def stop(self) -> None:
        """Close every connection. What was held is gone."""
        if self._server is None:
            return
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    def _keep(self, coroutine: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            now = asyncio.get_running_loop().time()
            for group in self._state.groups.values():
                group.tick(now)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        gone = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError)
        try:
            with contextlib.suppress(*gone):
                await self._converse(reader, writer)
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer until the client goes, or says what is not spoken here."""
        while (length := int.from_bytes(await reader.readexactly(4), "big")) <= _FRAME_BYTES_MAX:
            response = await self._answer(await reader.readexactly(length))
            if response is not None:
                writer.writelines((len(response).to_bytes(4, "big"), response))
                await writer.drain()

    async def _answer(self, frame: bytes) -> bytes | None:
        """One request's response, None where it has none. An unknown request ends the connection."""
        read = BytesIO(frame)
        key, version, correlation = Int16.decode(read), Int16.decode(read), Int32.decode(read)
        client_id = String().decode(read) or ""
        api = _APIS.get(key)
        if api is None or version != api.request.API_VERSION:
            raise ConnectionAbortedError(f"request {key} version {version} is not spoken here")
        answer = await api.handler(self._state, api.request.decode(read), client_id)
        if answer is None:
            return None
        return Int32.encode(correlation) + api.request.RESPONSE_TYPE(*answer).encode()
