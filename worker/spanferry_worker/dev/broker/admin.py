"""Requests about topics and their settings."""

from typing import Any, Final

from spanferry_worker.dev.broker.errors import Code
from spanferry_worker.dev.broker.state import BrokerState
from spanferry_worker.dev.broker.storage import TOPIC_DEFAULTS, PartitionLog

__all__ = ["create_partitions", "create_topics", "describe_configs"]

_TOPIC_RESOURCE: Final = 2
_DYNAMIC_TOPIC: Final = 1
_DEFAULT: Final = 5


async def create_topics(state: BrokerState, request: Any, _client_id: str) -> tuple[Any, ...]:
    """Make topics."""
    answers: list[Any] = []
    for name, partitions, _replication, _assignment, config in request.get_item(
        "create_topic_requests"
    ):
        wanted = (name, 1 if partitions == -1 else partitions, dict(config or []))
        dry = request.get_item("validate_only")
        code = state.storage.check(*wanted) if dry else state.storage.create(*wanted)
        answers.append((name, code, None))
    return 0, answers


async def create_partitions(state: BrokerState, request: Any, _client_id: str) -> tuple[Any, ...]:
    """Give topics more partitions."""
    answers: list[Any] = []
    for name, (count, _assignment) in request.get_item("topic_partitions"):
        topic = state.storage.topics.get(name)
        if topic is None:
            answers.append((name, Code.UNKNOWN_TOPIC_OR_PARTITION, None))
        elif count <= len(topic.logs):
            answers.append((name, Code.INVALID_PARTITIONS, f"it has {len(topic.logs)}"))
        else:
            if not request.get_item("validate_only"):
                topic.logs += [PartitionLog() for _ in range(count - len(topic.logs))]
            answers.append((name, Code.NONE, None))
    return 0, answers


async def describe_configs(state: BrokerState, request: Any, _client_id: str) -> tuple[Any, ...]:
    """Settings of topics; of the broker there are none to tell."""
    answers: list[Any] = []
    for kind, name, wanted in request.get_item("resources"):
        topic = state.storage.topics.get(name) if kind == _TOPIC_RESOURCE else None
        if kind == _TOPIC_RESOURCE and topic is None:
            answers.append((Code.UNKNOWN_TOPIC_OR_PARTITION, None, kind, name, []))
            continue
        entries: list[Any] = []
        for key, value in topic.config.items() if topic else ():
            if wanted is None or key in wanted:
                source = _DEFAULT if value == TOPIC_DEFAULTS[key] else _DYNAMIC_TOPIC
                entries.append((key, value, False, source, False, []))
        answers.append((Code.NONE, None, kind, name, entries))
    return 0, answers
