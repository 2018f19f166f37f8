"""The short run, and the parts of the long one that can be looked at alone."""

from collections import Counter

import msgspec
import pytest

from benchmarks.machine import conditions
from tests.chaos.account import Account, KafkaCount, LedgerTotals
from tests.chaos.document import PAGE, RESULTS, page
from tests.chaos.faults import HARD, Kind, Plan, schedule
from tests.chaos.journal import Journal, last_number, read_life
from tests.chaos.report import Report, lines
from tests.chaos.run import run
from tests.chaos.scene import Scene
from tests.chaos.traces import expected

SHORT = Plan(
    traces=1_500, faults=7, seed=1, seconds=20, producers=3, hold_max_s=3, all_outcomes=True
)


@pytest.mark.kafka
@pytest.mark.mlflow
@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_everything_dies_and_every_trace_is_accounted_for() -> None:
    assert Scene.has_small_disks(), (
        "no file system can be mounted here: see tests/spool/small_disk.py"
    )
    report = run(SHORT, print)
    print("\n".join(lines(report)))
    assert report.failures == []
    assert {fault.kind for fault in report.faults} == set(HARD)
    assert report.account.promised >= SHORT.traces
    assert report.account.judgements > SHORT.traces / 10
    ledger = report.ledger
    assert min(ledger.sampled, ledger.dead_lettered, ledger.dropped) > 0


def test_a_seed_has_one_schedule() -> None:
    assert schedule(Plan(seed=7)) == schedule(Plan(seed=7))
    assert schedule(Plan(seed=7)) != schedule(Plan(seed=8))


@pytest.mark.parametrize("seed", range(20))
def test_a_schedule_has_every_kind_before_one_comes_again(seed: int) -> None:
    faults = schedule(Plan(seed=seed, faults=24, left_out=frozenset({Kind.DISK_FULL})))
    assert len(faults) == 24
    first = [fault.kind for fault in faults[: len(Kind) - 1]]
    assert set(first) == set(Kind) - {Kind.DISK_FULL}
    assert {fault.kind for fault in faults[:6]} == set(HARD) - {Kind.DISK_FULL}
    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("left_out", [frozenset(), frozenset({Kind.DISK_FULL})])
def test_a_plan_of_24_faults_has_every_hard_one_twice(seed: int, left_out: frozenset[Kind]) -> None:
    faults = schedule(Plan(seed=seed, faults=24, left_out=left_out))
    counted = Counter(fault.kind for fault in faults)
    assert min(counted[kind] for kind in HARD if kind not in left_out) >= 2


def test_what_was_promised_is_what_was_safe_before_the_end(tmp_path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    for number in range(5):
        journal.made(number, f"tr-{number}")
        journal.handed(number, (number + 1) * 2)
    journal.dropped(2, 1)
    journal.safe(7)
    journal.made(5, "tr-5")
    with path.open("ab") as file:
        file.write(b"safe 12")  # killed in the middle of a line
    life = read_life(path)
    assert (life.promised, life.dropped, life.account) == ({0, 1}, {2: 1}, None)
    assert len(life.made) == 6
    assert last_number(path) == 5


def test_numbers_have_traces_of_every_size() -> None:
    sizes = [sum(expected(number).sizes) for number in range(1_000)]
    assert sum(size > 1_000_000 for size in sizes) == 2
    assert sum(size > 90_000 for size in sizes) == 12
    assert sum(expected(number).feedback is not None for number in range(1_000)) == 220


def test_what_the_rule_drops_is_one_record_that_nobody_brings_back() -> None:
    sampled = [one for one in map(expected, range(10_000)) if one.sampled]
    assert len(sampled) == 400
    assert all(one.feedback is None and sum(one.sizes) < 10_000 for one in sampled)


def published() -> Report:
    return msgspec.json.decode(RESULTS.read_bytes(), type=Report)


def test_the_published_run_has_lost_nothing() -> None:
    report = published()
    assert report.failures == []
    assert report.account.promised >= 50_000
    assert len(report.faults) >= 20


def test_the_published_run_has_records_that_end_in_every_way() -> None:
    report = published()
    assert report.plan.all_outcomes
    ledger = report.ledger
    assert min(ledger.sampled, ledger.dead_lettered, ledger.dropped) > 0
    counted = Counter(fault.kind for fault in report.faults)
    assert counted[Kind.WORKER_KILLED] >= 2


def test_the_page_is_that_of_the_published_run() -> None:
    assert PAGE.read_text() == page(published()), "run: python -m tests.chaos.document"


def a_report(account: Account, *, all_outcomes: bool = False) -> Report:
    ledger = LedgerTotals(
        adds_up=True,
        **dict.fromkeys(LedgerTotals.__struct_fields__[1:], 0),
    )
    ledger.produced = ledger.stored = 9
    return Report(
        conditions=conditions(),
        plan=Plan(faults=0, traces=0, all_outcomes=all_outcomes),
        partitions=6,
        load_s=1.0,
        settled_s=1.0,
        faults=[],
        account=account,
        letters={},
        ledger=ledger,
        kafka=KafkaCount(records=9, repeated=0),
        producers={},
    )


def test_where_all_is_there_nothing_fails() -> None:
    assert a_report(Account(made=8, promised=7, stored=7)).failures == []


def a_full_report() -> Report:
    """Of a run that has 5 traces sampled, 10 records dead, 2 parcels dropped."""
    made = Account(made=14, promised=12, stored=7, sampled=5, dropped=2, dropped_parcels=2)
    report = a_report(made, all_outcomes=True)
    report.letters = {"malformed": 10}
    ledger = report.ledger
    ledger.sampled, ledger.dead_lettered, ledger.dropped = 5, 10, 2
    ledger.produced = ledger.stored + 17
    report.kafka = KafkaCount(records=14, repeated=0, junk=10, sampled=5)
    report.producers = {"dropped_full": 1}
    return report


def test_where_records_end_in_every_way_nothing_fails() -> None:
    assert a_full_report().failures == []


@pytest.mark.parametrize("step", [1, -1])
@pytest.mark.parametrize(
    "field",
    [
        "ledger.sampled",
        "ledger.dead_lettered",
        "ledger.dropped",
        "ledger.produced",
        "kafka.junk",
        "kafka.sampled",
        "account.sampled",
        "account.dropped_parcels",
        "producers.dropped_full",
    ],
)
def test_what_is_counted_otherwise_elsewhere_fails_the_run(field: str, step: int) -> None:
    report = a_full_report()
    name, _, count = field.partition(".")
    if name == "producers":
        report.producers[count] = 0
    else:
        part = getattr(report, name)
        setattr(part, count, getattr(part, count) + step)
    assert report.failures


def test_a_trace_that_the_rule_drops_and_that_is_there_fails_the_run() -> None:
    report = a_full_report()
    report.account.kept = 1
    assert report.failures == ["1 are there that the rule drops"]


@pytest.mark.parametrize("field", ["lost", "doubled", "unknown", "promised"])
def test_whatever_is_wrong_in_the_store_fails_the_run(field: str) -> None:
    account = Account(made=9, promised=7, stored=7)
    setattr(account, field, getattr(account, field) + 1)
    assert a_report(account).failures


@pytest.mark.parametrize("field", ["missing", "in_flight", "sampled", "unaccounted", "produced"])
def test_a_ledger_that_says_otherwise_fails_the_run(field: str) -> None:
    report = a_report(Account(promised=7, stored=7))
    setattr(report.ledger, field, getattr(report.ledger, field) + 1)
    assert report.failures


def test_what_the_account_finds_wrong_is_said() -> None:
    report = a_report(Account(promised=1, lost=1, wrong=["lost: number 7, tr-7"]))
    text = "\n".join(lines(report))
    assert "lost: number 7, tr-7" in text
    assert "FAILED: 1 promised traces are lost" in text
    assert "every trace is accounted for" not in text
