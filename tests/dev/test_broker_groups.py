"""Consumer groups: who is in, who leads, what is answered when."""

from spanferry_worker.dev.broker.errors import Code
from spanferry_worker.dev.broker.groups import Group, GroupState, JoinAnswer, JoinRequest

SESSION_S = 10.0
REBALANCE_S = 60.0


class Consumer:
    """A group member as the client's side sees it: what it asked, what it was answered."""

    def __init__(self, group: Group, name: str, instance: str | None = None) -> None:
        self.group = group
        self.name = name
        self.instance = instance
        self.joined: JoinAnswer | None = None
        self.synced: tuple[Code, bytes] | None = None

    @property
    def member_id(self) -> str:
        return self.joined.member_id if self.joined else ""

    def join(self, now: float, protocols: tuple[str, ...] = ("range",)) -> None:
        member_id, self.joined, self.synced = self.member_id, None, None
        said = [(protocol, self.name.encode()) for protocol in protocols]
        asked = JoinRequest(member_id, self.instance, "c", SESSION_S, REBALANCE_S, said)
        self.group.join(asked, f"{self.name}@{now:g}", now, self._on_join)

    def sync(self, now: float, assignments: dict[str, bytes] | None = None) -> None:
        assert self.joined is not None
        self.group.sync(
            self.member_id, self.joined.generation, assignments or {}, now, self._on_sync
        )

    def heartbeat(self, now: float) -> Code:
        assert self.joined is not None
        return self.group.heartbeat(self.member_id, self.joined.generation, now)

    def _on_join(self, answer: JoinAnswer) -> None:
        self.joined = answer

    def _on_sync(self, code: Code, assignment: bytes) -> None:
        self.synced = (code, assignment)


def stable_pair() -> tuple[Group, Consumer, Consumer]:
    group = Group("g")
    first, second = Consumer(group, "first"), Consumer(group, "second")
    first.join(0)
    first.sync(0)
    second.join(1)
    first.join(1)
    second.sync(1)
    first.sync(1, {first.member_id: b"A", second.member_id: b"B"})
    return group, first, second


def test_one_member_is_answered_at_once() -> None:
    group = Group("g")
    only = Consumer(group, "only")
    only.join(0)
    assert only.joined == JoinAnswer(
        Code.NONE, 1, "range", "only@0", "only@0", [("only@0", None, b"only")]
    )
    only.sync(0, {"only@0": b"all"})
    assert only.synced == (Code.NONE, b"all")
    assert group.state is GroupState.STABLE


def test_a_second_member_waits_for_the_first_to_join_again() -> None:
    group = Group("g")
    first, second = Consumer(group, "first"), Consumer(group, "second")
    first.join(0)
    first.sync(0)
    second.join(1)
    assert second.joined is None
    assert first.heartbeat(1) is Code.REBALANCE_IN_PROGRESS
    first.join(2)
    assert second.joined is not None
    assert first.joined is not None
    assert first.joined.generation == second.joined.generation == 2
    assert len(first.joined.members) == 2
    assert second.joined.members == ()


def test_followers_get_their_part_whether_they_sync_before_or_after_the_leader() -> None:
    _, first, second = stable_pair()
    assert (first.synced, second.synced) == ((Code.NONE, b"A"), (Code.NONE, b"B"))
    second.sync(2)
    assert second.synced == (Code.NONE, b"B")


def test_a_silent_member_is_removed_and_the_rest_rebalances() -> None:
    group, first, second = stable_pair()
    assert second.heartbeat(9) is Code.NONE
    group.tick(11.5)
    assert list(group.members) == [second.member_id]
    assert second.heartbeat(11.5) is Code.REBALANCE_IN_PROGRESS
    second.join(12)
    assert second.joined is not None
    assert second.joined.leader_id == second.member_id
    assert first.heartbeat(12) is Code.UNKNOWN_MEMBER_ID


def test_a_rebalance_does_not_wait_for_ever() -> None:
    group, first, second = stable_pair()
    third = Consumer(group, "third")
    third.join(2)
    for now in range(3, 63, 5):
        first.heartbeat(now)
        second.heartbeat(now)
        group.tick(now)
    assert third.joined is None
    group.tick(2 + REBALANCE_S)
    assert third.joined is not None
    assert third.joined.code is Code.NONE
    assert list(group.members) == [third.member_id]


def test_a_static_member_that_starts_again_takes_its_place_at_once() -> None:
    group = Group("g")
    first = Consumer(group, "first", instance="i")
    first.join(0)
    first.sync(0)
    again = Consumer(group, "again", instance="i")
    again.join(1)
    assert again.joined is not None
    assert again.joined.code is Code.NONE
    assert first.heartbeat(1) is Code.UNKNOWN_MEMBER_ID


def test_leaving_members_and_the_last_one() -> None:
    group, first, second = stable_pair()
    assert group.leave(first.member_id, 2) is Code.NONE
    assert second.heartbeat(2) is Code.REBALANCE_IN_PROGRESS
    assert group.leave(second.member_id, 3) is Code.NONE
    assert group.state is GroupState.EMPTY
    assert group.leave(second.member_id, 4) is Code.UNKNOWN_MEMBER_ID


def test_members_without_a_common_protocol_are_refused() -> None:
    group, *_ = stable_pair()
    stranger = Consumer(group, "stranger")
    stranger.join(2, protocols=("sticky",))
    assert stranger.joined == JoinAnswer(Code.INCONSISTENT_GROUP_PROTOCOL)
    assert group.state is GroupState.STABLE


def test_who_may_commit() -> None:
    group, first, _ = stable_pair()
    generation = group.generation
    assert group.may_commit(first.member_id, generation, 2) is Code.NONE
    assert group.may_commit(first.member_id, generation - 1, 2) is Code.ILLEGAL_GENERATION
    assert group.may_commit("", -1, 2) is Code.UNKNOWN_MEMBER_ID
    assert Group("empty").may_commit("", -1, 2) is Code.NONE
