"""Requests about consumer groups: joining, heartbeats, committed offsets, descriptions."""

import asyncio
from typing import Any

from spanferry_worker.dev.broker.errors import Code
from spanferry_worker.dev.broker.groups import Group, GroupState, JoinAnswer, JoinRequest
from spanferry_worker.dev.broker.state import NODE_ID, BrokerState

__all__ = [
    "describe_groups",
    "find_coordinator",
    "heartbeat",
    "join_group",
    "leave_group",
    "list_groups",
    "offset_commit",
    "offset_fetch",
    "sync_group",
]


def _now() -> float:
    return asyncio.get_running_loop().time()


async def find_coordinator(state: BrokerState, _request: Any, _client_id: str) -> tuple[Any, ...]:
    """The one node coordinates everything."""
    return 0, Code.NONE, None, NODE_ID, state.host, state.port


async def join_group(state: BrokerState, request: Any, client_id: str) -> tuple[Any, ...]:
    """Answered when the group is complete, or when its rebalance timeout is over."""
    answered: asyncio.Future[JoinAnswer] = asyncio.get_running_loop().create_future()

    def answer(value: JoinAnswer) -> None:
        if not answered.done():
            answered.set_result(value)

    joining = JoinRequest(
        request.get_item("member_id"),
        request.get_item("group_instance_id"),
        client_id,
        request.get_item("session_timeout") / 1000,
        request.get_item("rebalance_timeout") / 1000,
        request.get_item("group_protocols"),
    )
    group = state.group(request.get_item("group"))
    group.join(joining, state.new_member_id(client_id), _now(), answer)
    return 0, *await answered


async def sync_group(state: BrokerState, request: Any, _client_id: str) -> tuple[Any, ...]:
    """Answered when the leader has assigned."""
    answered: asyncio.Future[tuple[Code, bytes]] = asyncio.get_running_loop().create_future()

    def answer(code: Code, assignment: bytes) -> None:
        if not answered.done():
            answered.set_result((code, assignment))

    state.group(request.get_item("group")).sync(
        request.get_item("member_id"),
        request.get_item("generation_id"),
        dict(request.get_item("group_assignment")),
        _now(),
        answer,
    )
    return 0, *await answered


async def heartbeat(state: BrokerState, request: Any, _client_id: str) -> tuple[Any, ...]:
    """Keep the member's session."""
    group = state.group(request.get_item("group"))
    member_id, generation = request.get_item("member_id"), request.get_item("generation_id")
    return 0, group.heartbeat(member_id, generation, _now())


async def leave_group(state: BrokerState, request: Any, _client_id: str) -> tuple[Any, ...]:
    """Let the member go."""
    group = state.group(request.get_item("group"))
    return 0, group.leave(request.get_item("member_id"), _now())


async def offset_commit(state: BrokerState, request: Any, _client_id: str) -> tuple[Any, ...]:
    """Keep the offsets of a member of the present generation."""
    group = state.group(request.get_item("consumer_group"))
    generation = request.get_item("consumer_group_generation_id")
    code = group.may_commit(request.get_item("consumer_id"), generation, _now())
    topics: list[Any] = []
    for topic, partitions in request.get_item("topics"):
        answers: list[tuple[int, Code]] = []
        for partition, offset, metadata in partitions:
            known = state.storage.log(topic, partition) is not None
            if known and not code:
                group.offsets[topic, partition] = (offset, metadata)
            answers.append((partition, code if known else Code.UNKNOWN_TOPIC_OR_PARTITION))
        topics.append((topic, answers))
    return 0, topics


async def offset_fetch(state: BrokerState, request: Any, _client_id: str) -> tuple[Any, ...]:
    """Committed offsets, -1 where there is none; null asks for all there are."""
    group = state.groups.get(request.get_item("consumer_group"), Group(""))
    wanted = request.get_item("topics")
    if wanted is None:
        known: dict[str, list[int]] = {}
        for topic, partition in group.offsets:
            known.setdefault(topic, []).append(partition)
        wanted = known.items()
    topics = [
        (topic, [(each, *group.offsets.get((topic, each), (-1, "")), 0) for each in partitions])
        for topic, partitions in wanted
    ]
    return 0, topics, Code.NONE


async def list_groups(state: BrokerState, _request: Any, _client_id: str) -> tuple[Any, ...]:
    """Every group."""
    return 0, Code.NONE, [(group_id, "consumer") for group_id in state.groups]


async def describe_groups(state: BrokerState, request: Any, _client_id: str) -> tuple[Any, ...]:
    """States and members; a group that does not exist is "Dead", as in Kafka."""
    return 0, [_describe(state.groups.get(name), name) for name in request.get_item("groups")]


def _describe(group: Group | None, group_id: str) -> tuple[Any, ...]:
    if group is None:
        return Code.NONE, group_id, "Dead", "", "", []
    settled = group.state is GroupState.STABLE
    members = [
        (
            member.member_id,
            member.request.client_id,
            "/127.0.0.1",
            member.metadata(group.protocol) if settled else b"",
            member.assignment,
        )
        for member in group.members.values()
    ]
    return Code.NONE, group_id, group.state, "consumer", group.protocol, members
