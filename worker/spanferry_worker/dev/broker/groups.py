"""Consumer groups as a state machine: requests and `now` in, answers through callbacks.

The classic protocol: members join, the leader assigns, members sync, heartbeats hold the session.
A join or a sync is answered when the group gets there, so each carries the callback to answer with.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from spanferry_worker.dev.broker.errors import Code

__all__ = ["Group", "GroupState", "JoinAnswer", "JoinRequest", "Member"]


class GroupState(StrEnum):
    """Kafka's names, as DescribeGroups shows them."""

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"


class JoinRequest(NamedTuple):
    """What a member says of itself when it joins."""

    member_id: str
    instance_id: str | None
    client_id: str
    session_timeout_s: float
    rebalance_timeout_s: float
    protocols: Sequence[tuple[str, bytes]]


class JoinAnswer(NamedTuple):
    """The group as a member learns it; only the leader is told the members."""

    code: Code
    generation: int = -1
    protocol: str = ""
    leader_id: str = ""
    member_id: str = ""
    members: Sequence[tuple[str, str | None, bytes]] = ()


AnswerJoin = Callable[[JoinAnswer], None]
AnswerSync = Callable[[Code, bytes], None]


class Member:
    """One consumer of the group."""

    def __init__(self, member_id: str, request: JoinRequest) -> None:
        self.member_id = member_id
        self.request = request
        self.assignment = b""
        self.deadline = 0.0
        self.answer_join: AnswerJoin | None = None
        self.answer_sync: AnswerSync | None = None

    def seen(self, now: float) -> None:
        """Start its session anew."""
        self.deadline = now + self.request.session_timeout_s

    def metadata(self, protocol: str) -> bytes:
        """What it said about `protocol`."""
        return dict(self.request.protocols)[protocol]


class Group:
    """One consumer group and its committed offsets, by (topic, partition)."""

    def __init__(self, group_id: str) -> None:
        self.group_id = group_id
        self.state = GroupState.EMPTY
        self.generation = 0
        self.protocol = ""
        self.leader_id = ""
        self.members: dict[str, Member] = {}
        self.offsets: dict[tuple[str, int], tuple[int, str]] = {}
        self._rebalance_deadline = 0.0

    def join(self, request: JoinRequest, new_id: str, now: float, answer: AnswerJoin) -> None:
        """Take a member in, or again. It is answered when all others have joined too."""
        member = self.members.get(request.member_id)
        if member is None and request.member_id:
            answer(JoinAnswer(Code.UNKNOWN_MEMBER_ID))
            return
        if member is None:
            self._replace_instance(request.instance_id)
            member = Member(new_id, request)
            self.members[new_id] = member
        if not self._common_protocols(request):
            del self.members[member.member_id]
            answer(JoinAnswer(Code.INCONSISTENT_GROUP_PROTOCOL))
            return
        member.request = request
        member.answer_join = answer
        member.seen(now)
        self._prepare(now)
        self._complete_if_all_joined(now)

    def sync(
        self,
        member_id: str,
        generation: int,
        assignments: Mapping[str, bytes],
        now: float,
        answer: AnswerSync,
    ) -> None:
        """Hand a member its partitions, at once or when the leader has assigned them."""
        code = self._check(member_id, generation)
        if code or self.state is GroupState.PREPARING:
            answer(code or Code.REBALANCE_IN_PROGRESS, b"")
            return
        member = self.members[member_id]
        member.seen(now)
        if self.state is GroupState.STABLE:
            answer(Code.NONE, member.assignment)
            return
        member.answer_sync = answer
        if member_id == self.leader_id:
            self.state = GroupState.STABLE
            for each in self.members.values():
                each.assignment = assignments.get(each.member_id, b"")
            self._answer_syncs(Code.NONE)

    def heartbeat(self, member_id: str, generation: int, now: float) -> Code:
        """Keep a member's session; tells it where it has to join again."""
        code = self._check(member_id, generation)
        if code:
            return code
        self.members[member_id].seen(now)
        preparing = self.state is GroupState.PREPARING
        return Code.REBALANCE_IN_PROGRESS if preparing else Code.NONE

    def leave(self, member_id: str, now: float) -> Code:
        """Let a member go; the others rebalance."""
        if member_id not in self.members:
            return Code.UNKNOWN_MEMBER_ID
        self._remove([member_id], now)
        return Code.NONE

    def may_commit(self, member_id: str, generation: int, now: float) -> Code:
        """Whether offsets may be committed; outside of a generation only while nobody consumes."""
        if generation < 0 and self.state is GroupState.EMPTY:
            return Code.NONE
        code = self._check(member_id, generation)
        if code:
            return code
        self.members[member_id].seen(now)
        completing = self.state is GroupState.COMPLETING
        return Code.REBALANCE_IN_PROGRESS if completing else Code.NONE

    def tick(self, now: float) -> None:
        """Let time pass: sessions end, and a rebalance does not wait for the silent for ever."""
        silent = [
            member.member_id
            for member in self.members.values()
            if member.deadline <= now and not member.answer_join and not member.answer_sync
        ]
        if silent:
            self._remove(silent, now)
        if self.state is GroupState.PREPARING and now >= self._rebalance_deadline:
            late = [each.member_id for each in self.members.values() if not each.answer_join]
            self._remove(late, now)

    def _check(self, member_id: str, generation: int) -> Code:
        if member_id not in self.members:
            return Code.UNKNOWN_MEMBER_ID
        return Code.NONE if generation == self.generation else Code.ILLEGAL_GENERATION

    def _replace_instance(self, instance_id: str | None) -> None:
        """A static member that starts again takes the place of its former self."""
        for member in list(self.members.values()):
            if instance_id and member.request.instance_id == instance_id:
                del self.members[member.member_id]
                if member.answer_join:
                    member.answer_join(JoinAnswer(Code.FENCED_INSTANCE_ID))
                if member.answer_sync:
                    member.answer_sync(Code.FENCED_INSTANCE_ID, b"")

    def _common_protocols(self, request: JoinRequest) -> set[str]:
        common = {name for name, _ in request.protocols}
        for member in self.members.values():
            common &= {name for name, _ in member.request.protocols}
        return common

    def _prepare(self, now: float) -> None:
        if self.state is GroupState.PREPARING:
            return
        self.state = GroupState.PREPARING
        self._answer_syncs(Code.REBALANCE_IN_PROGRESS)
        timeouts = [member.request.rebalance_timeout_s for member in self.members.values()]
        self._rebalance_deadline = now + max(timeouts, default=0.0)

    def _complete_if_all_joined(self, now: float) -> None:
        joined = list(self.members.values())
        if not joined or not all(member.answer_join for member in joined):
            return
        self.state = GroupState.COMPLETING
        self.generation += 1
        if self.leader_id not in self.members:
            self.leader_id = joined[0].member_id
        leader = self.members[self.leader_id]
        common = self._common_protocols(leader.request)
        self.protocol = next(name for name, _ in leader.request.protocols if name in common)
        everyone = [
            (each.member_id, each.request.instance_id, each.metadata(self.protocol))
            for each in joined
        ]
        for member in joined:
            answer, member.answer_join = member.answer_join, None
            member.seen(now)
            assert answer is not None
            answer(
                JoinAnswer(
                    Code.NONE,
                    self.generation,
                    self.protocol,
                    self.leader_id,
                    member.member_id,
                    everyone if member is leader else (),
                )
            )

    def _answer_syncs(self, code: Code) -> None:
        for member in self.members.values():
            answer, member.answer_sync = member.answer_sync, None
            if answer:
                answer(code, b"" if code else member.assignment)

    def _remove(self, member_ids: Sequence[str], now: float) -> None:
        for member_id in member_ids:
            member = self.members.pop(member_id)
            if member.answer_join:
                member.answer_join(JoinAnswer(Code.UNKNOWN_MEMBER_ID))
            if member.answer_sync:
                member.answer_sync(Code.UNKNOWN_MEMBER_ID, b"")
        if not self.members:
            self.state = GroupState.EMPTY
            self.generation += 1
            return
        self._prepare(now)
        self._complete_if_all_joined(now)
