"""Pages, batches, limits, refusals and failures, over traces in memory."""

import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanferry_worker.errors import FatalError, PoisonError, TransientError
from spanferry_worker.retention.deleting import Deletion, Order
from spanferry_worker.retention.survey import survey
from spanferry_worker.retention.table import Patience, Walk
from spanferry_worker.stages.retention import DeletionPace, Experiment, Selection
from spanferry_worker.stages.write import RetryPolicy
from tests.worker.retention.double import MemoryTraces, numbers, stored

SHOP, BANK = Experiment("1", "shop"), Experiment("2", "bank")
ALL = Selection(before_ms=10_000)


class World:
    """Time that passes only when somebody waits, and somebody who may ask to stop."""

    def __init__(self, table: MemoryTraces | None = None) -> None:
        self.table = table or MemoryTraces()
        self.now_s = 0.0
        self.waited: list[float] = []
        self.stop_at_s = float("inf")
        self.patience = Patience(
            RetryPolicy(), 60.0, lambda: self.now_s, self.wait, random.Random(1)
        )

    def wait(self, seconds: float) -> bool:
        self.now_s += seconds
        if seconds:
            self.waited.append(seconds)
        return self.now_s >= self.stop_at_s

    def delete(
        self, *experiments: Experiment, selection: Selection = ALL, **order: Any
    ) -> Deletion:
        page = order.pop("page_traces", 100)
        deletion = Deletion(
            self.table,
            Order(selection=selection, page_traces=page, **order),
            DeletionPace(page, 0.2),
            self.patience,
            now_s=lambda: self.now_s,
            wait=self.wait,
        )
        deletion.run(experiments or [SHOP], lambda account: None)
        return deletion

    @property
    def left(self) -> set[int]:
        return numbers(self.table.rows)


def of(count: int, **fields: Any) -> MemoryTraces:
    table = MemoryTraces()
    table.put("1", *(stored(number, **fields) for number in range(count)))
    return table


def failing(times: int, call: str, error: Callable[[], Exception]) -> Callable[[str], None]:
    left = [times]

    def before(name: str) -> None:
        if name == call and left[0]:
            left[0] -= 1
            raise error()

    return before


def away() -> Exception:
    return TransientError("MLflow is away")


def test_all_that_is_old_goes_in_batches_with_pauses() -> None:
    world = World(of(1_000))
    deletion = world.delete(selection=Selection(before_ms=500))
    assert world.left == set(range(500, 1_000))
    assert deletion.deleted == 500
    assert (max(world.table.batches), sum(world.table.batches)) == (100, 500)
    assert len(world.waited) == len(world.table.batches)
    assert min(world.waited) == 0.2
    assert world.delete(selection=Selection(before_ms=500)).deleted == 0, (
        "a second run finds nothing"
    )


def test_other_experiments_are_not_touched() -> None:
    world = World(of(10))
    world.table.put("2", *(stored(number) for number in range(100, 110)))
    world.delete(SHOP)
    assert world.left == set(range(100, 110))
    both = World(of(10))
    both.table.put("2", *(stored(number) for number in range(100, 110)))
    assert [one.deleted for one in both.delete(SHOP, BANK).accounts] == [10, 10]


def test_the_oldest_go_first_and_no_more_than_asked_for() -> None:
    world = World(of(30))
    deletion = world.delete(traces_max=12, page_traces=5)
    assert world.left == set(range(12, 30))
    assert deletion.at_limit
    world.table.put("2", stored(99))
    assert world.delete(SHOP, BANK, traces_max=18).deleted == 18
    assert world.left == {99}, "the limit is one for all experiments"


@given(
    times=st.lists(st.integers(0, 5), max_size=60),
    kept=st.sets(st.integers(0, 59)),
    page=st.integers(1, 7),
)
def test_whatever_stays_and_however_times_fall_together_each_is_seen_once(
    times: list[int], kept: set[int], page: int
) -> None:
    table = MemoryTraces()
    for number, time_ms in enumerate(times):
        table.put("1", stored(number, time_ms, tags={"keep": ""} if number in kept else {}))
    world = World(table)
    selection = Selection(before_ms=5, keep_tags=(("keep", None),))
    old = {number for number, time_ms in enumerate(times) if time_ms < 5}
    [finding] = survey(table, [SHOP], selection, world.patience, lambda: False)
    deletion = world.delete(selection=selection, page_traces=page)
    assert world.left == set(range(len(times))) - (old - kept)
    assert (deletion.deleted, deletion.accounts[0].kept) == (len(old - kept), len(old & kept))
    assert (finding.traces, finding.kept) == (len(old - kept), len(old & kept))
    seen = [times[number] for number in old - kept]
    assert (finding.oldest_ms, finding.newest_ms) == (
        min(seen, default=None),
        max(seen, default=None),
    )


def test_a_walk_meets_what_comes_meanwhile_only_where_it_has_not_been() -> None:
    table = of(6)
    walk = Walk(table, "1", ALL, 3)
    assert numbers(trace.trace_id for trace in walk.step()) == {0, 1, 2}
    table.put("1", stored(50, 0), stored(51, 2), stored(52, 9))
    rest: set[int] = set()
    while page := walk.step():
        rest |= numbers(trace.trace_id for trace in page)
    assert rest == {51, 3, 4, 5, 52}


def test_looking_at_many_of_the_same_moment_does_not_begin_anew_each_time() -> None:
    table = MemoryTraces(counts=False)
    table.put("1", *(stored(number, 7) for number in range(10_000)))
    [found] = survey(table, [SHOP], ALL, World().patience, lambda: False)
    assert found.traces == 10_000
    assert table.calls.count("search") < 50


def test_mlflow_s_filter_is_not_believed_alone() -> None:
    """Some databases take capitals for small letters; what is deleted has been compared here."""
    table = MemoryTraces()
    table.put("1", stored(1, tags={"env": "dev"}), stored(2, tags={"env": "DEV"}))
    selection = Selection(before_ms=9, tags=(("env", "dev"),))
    table._found = lambda *_: [trace for _, trace in table.rows.values()]  # type: ignore[method-assign]
    world = World(table)
    assert world.delete(selection=selection).deleted == 1
    assert world.left == {2}


def test_what_passes_is_tried_again_with_fewer() -> None:
    world = World(of(100))
    world.table.before = failing(3, "delete", away)
    assert world.delete(page_traces=100).deleted == 100
    assert world.table.batches[0] == 1, "10, 5, 2, then 1"
    assert world.left == set()


def test_an_answer_that_is_lost_counts_what_is_gone() -> None:
    world = World(of(20))
    world.table.after = failing(1, "delete", away)
    assert world.delete().deleted == 20
    assert "there" in world.table.calls


@pytest.mark.parametrize("call", ["search", "delete"])
def test_an_mlflow_that_stays_away_ends_the_run(call: str) -> None:
    world = World(of(20))
    world.table.put("2", stored(99))
    world.table.before = failing(10_000, call, away)
    deletion = world.delete(SHOP, BANK)
    assert [str(one.stopped) for one in deletion.accounts] == ["MLflow is away"]
    assert 30 < world.now_s <= 60
    assert len(world.left) == 21


def test_it_waits_as_long_as_mlflow_asks_for() -> None:
    world = World(of(5))
    world.table.before = failing(1, "search", lambda: TransientError("busy", retry_after_s=17))
    world.delete()
    assert world.waited[0] == 17


def test_what_is_refused_is_found_and_left_and_the_rest_goes() -> None:
    world = World(of(100))
    world.table.guarded = {stored(number).trace_id for number in (13, 14, 77)}
    deletion = world.delete()
    assert world.left == {13, 14, 77}
    [account] = deletion.accounts
    assert (account.deleted, account.refused, account.why) == (97, 3, "guarded")
    assert account.stopped is None


def test_an_experiment_that_refuses_everything_is_left_alone_soon() -> None:
    world = World(of(1_000))
    world.table.put("2", stored(5_000))
    world.table.guarded = set(world.table.rows) - {stored(5_000).trace_id}
    shop, bank = world.delete(SHOP, BANK).accounts
    assert (shop.refused, str(shop.stopped)) == (10, "guarded")
    assert bank.deleted == 1
    assert world.table.calls.count("delete") < 30


def test_what_mlflow_leaves_without_a_word_is_counted_and_passed_over() -> None:
    world = World(of(50))
    world.table.stuck = {stored(3).trace_id, stored(30).trace_id}
    [account] = world.delete(page_traces=10).accounts
    assert (account.deleted, account.refused) == (48, 2)
    assert "archived" in account.why


def test_one_experiment_that_may_not_be_touched_keeps_no_other_back() -> None:
    world = World(of(5))
    world.table.put("2", stored(99))

    def before(call: str) -> None:
        if call == "delete" and len(world.left) == 6:
            raise FatalError("not yours")

    world.table.before = before
    world.table.put("2", stored(99))
    shop, bank = world.delete(SHOP, BANK).accounts
    assert str(shop.stopped) == "not yours"
    assert isinstance(bank.stopped, FatalError)
    assert len(world.left) == 6


def test_files_go_before_their_records_and_keep_those_that_cannot() -> None:
    world = World(of(10))
    world.table.put("1", stored(3, tags={"lost": ""}))
    world.table.files = set(world.table.rows)
    [account] = world.delete(files=True).accounts
    assert world.left == {3}
    assert numbers(world.table.files) == {3}
    assert (account.deleted, account.refused, account.why) == (9, 1, "no place")
    calls = [call for call in world.table.calls if call != "search"]
    assert calls == ["delete_files", "delete"]


def test_files_are_left_where_nobody_asks_for_them() -> None:
    world = World(of(10))
    world.table.files = set(world.table.rows)
    world.delete()
    assert len(world.table.files) == 10
    assert "delete_files" not in world.table.calls


def test_asked_to_stop_it_ends_between_two_batches() -> None:
    world = World(of(1_000))
    world.stop_at_s = 1.0
    deletion = world.delete()
    assert deletion.stopped
    assert deletion.deleted == sum(world.table.batches) == 1_000 - len(world.left)
    assert 0 < deletion.deleted < 1_000


def test_asked_to_stop_it_does_not_try_again() -> None:
    world = World(of(10))
    world.stop_at_s = 0.01
    world.table.before = failing(100, "search", away)
    deletion = world.delete()
    assert isinstance(deletion.accounts[0].stopped, TransientError)
    assert world.table.calls == ["search"]


def test_the_survey_lets_mlflow_count_and_asks_for_both_ends() -> None:
    world = World(of(40))
    world.table.put("2")
    found = survey(world.table, [SHOP, BANK], ALL, world.patience, lambda: False)
    assert [(one.traces, one.oldest_ms, one.newest_ms) for one in found] == [
        (40, 0, 39),
        (0, None, None),
    ]
    assert world.table.calls == ["count", "search", "search", "count"]
    assert len(world.left) == 40


def test_the_survey_counts_itself_where_mlflow_does_not() -> None:
    world = World(MemoryTraces(counts=False))
    world.table.put("1", *(stored(number) for number in range(1_200)))
    [found] = survey(world.table, [SHOP], ALL, world.patience, lambda: False)
    assert (found.traces, found.oldest_ms, found.newest_ms) == (1_200, 0, 1_199)


def test_the_survey_says_which_experiments_it_could_not_look_at() -> None:
    world = World(of(4))
    world.table.before = failing(1, "count", lambda: PoisonError("not this one"))
    shop, bank = survey(world.table, [BANK, SHOP], ALL, world.patience, lambda: False)
    assert (str(shop.error), bank.traces) == ("not this one", 4)


def test_the_survey_ends_where_it_is_asked_to() -> None:
    world = World(of(4))
    answers: Iterable[bool] = iter([False, True])
    found = survey(world.table, [SHOP, BANK], ALL, world.patience, lambda: next(iter(answers)))
    assert len(found) == 1
