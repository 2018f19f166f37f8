"""Requests about records: metadata, produce, fetch, offsets in the log."""

import asyncio
from typing import Any, Final

from spanferry_worker.dev.broker.errors import Code
from spanferry_worker.dev.broker.state import NODE_ID, BrokerState
from spanferry_worker.dev.broker.storage import Topic

__all__ = ["fetch", "init_producer_id", "list_offsets", "metadata", "produce"]

_LATEST: Final = -1
_EARLIEST: Final = -2


async def metadata(state: BrokerState, request: Any, _client_id: str) -> tuple[Any, ...]:
    """Where partitions are: all here. Null asks for every topic; unknown ones are not created."""
    wanted = request.get_item("topics")
    names = list(state.storage.topics) if wanted is None else wanted
    topics = [_describe(name, state.storage.topics.get(name)) for name in names]
    brokers = [(NODE_ID, state.host, state.port, None)]
    return 0, brokers, "spanferry-embedded", NODE_ID, topics


def _describe(name: str, topic: Topic | None) -> tuple[Any, ...]:
    if topic is None:
        return Code.UNKNOWN_TOPIC_OR_PARTITION, name, False, []
    partitions: list[Any] = [
        (Code.NONE, number, NODE_ID, [NODE_ID], [NODE_ID], []) for number in range(len(topic.logs))
    ]
    return Code.NONE, name, False, partitions


async def init_producer_id(state: BrokerState, request: Any, _client_id: str) -> tuple[Any, ...]:
    """An id for an idempotent producer. There are no transactions here."""
    if request.get_item("transactional_id") is not None:
        return 0, Code.INVALID_REQUEST, -1, -1
    return 0, Code.NONE, state.new_producer_id(), 0


async def produce(state: BrokerState, request: Any, _client_id: str) -> tuple[Any, ...] | None:
    """Append to logs. acks=0 has no answer."""
    topics: list[Any] = []
    for topic, partitions in request.get_item("topics"):
        answers: list[Any] = []
        for partition, data in partitions:
            code, offset = state.storage.append(topic, partition, data or b"")
            log = state.storage.log(topic, partition)
            answers.append((partition, code, offset, -1, log.start_offset if log else -1))
        topics.append((topic, answers))
    state.ring()
    return (topics, 0) if request.get_item("required_acks") else None


async def fetch(state: BrokerState, request: Any, _client_id: str) -> tuple[Any, ...]:
    """Batches from logs; waits up to `max_wait_time` where there are fewer than `min_bytes`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + request.get_item("max_wait_time") / 1000
    while True:
        topics, size, failed = _read(state, request)
        left = deadline - loop.time()
        if failed or left <= 0 or size >= request.get_item("min_bytes"):
            return 0, Code.NONE, 0, topics
        await state.appended(left)


def _read(state: BrokerState, request: Any) -> tuple[list[Any], int, bool]:
    """The fetch's topics, the bytes in them, and whether a partition has an error."""
    room: int = request.get_item("max_bytes")
    topics: list[Any] = []
    size, failed = 0, False
    for topic, partitions in request.get_item("topics"):
        answers: list[Any] = []
        for partition, _epoch, offset, _start, bytes_max in partitions:
            answer = _read_partition(
                state, topic, partition, offset, min(bytes_max, room - size) if size < room else 0
            )
            failed = failed or answer[1] != Code.NONE
            size += len(answer[-1])
            answers.append(answer)
        topics.append((topic, answers))
    return topics, size, failed


def _read_partition(
    state: BrokerState, topic: str, partition: int, offset: int, bytes_max: int
) -> tuple[Any, ...]:
    log = state.storage.log(topic, partition)
    if log is None:
        return partition, Code.UNKNOWN_TOPIC_OR_PARTITION, -1, -1, -1, None, -1, b""
    outside = not log.start_offset <= offset <= log.end_offset
    code = Code.OFFSET_OUT_OF_RANGE if outside else Code.NONE
    data = b"" if outside or bytes_max <= 0 else log.read(offset, bytes_max)
    return partition, code, log.end_offset, log.end_offset, log.start_offset, None, -1, data


async def list_offsets(state: BrokerState, request: Any, _client_id: str) -> tuple[Any, ...]:
    """First, next, or first offset at a time."""
    topics: list[Any] = []
    for topic, partitions in request.get_item("topics"):
        answers: list[Any] = []
        for partition, timestamp_ms in partitions:
            log = state.storage.log(topic, partition)
            if log is None:
                answers.append((partition, Code.UNKNOWN_TOPIC_OR_PARTITION, -1, -1))
            elif timestamp_ms == _LATEST:
                answers.append((partition, Code.NONE, -1, log.end_offset))
            elif timestamp_ms == _EARLIEST:
                answers.append((partition, Code.NONE, -1, log.start_offset))
            else:
                answers.append((partition, Code.NONE, *log.offset_at(timestamp_ms)))
        topics.append((topic, answers))
    return 0, topics
