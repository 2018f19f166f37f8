"""The statement as people read it: the equation, who does not add up, and where."""

import json

import pytest

from spanferry_schemas import Report
from spanferry_worker.ledger.text import as_json, lines
from spanferry_worker.stages.accounts import UNNUMBERED
from spanferry_worker.stages.statement import Row, Statement

NOW_MS = 1_700_000_060_000
APP, OTHER = b"app-0001", b"app-0002"


def report(*, age_s: int = 3, last: bool = False, dropped: int = 0) -> Report:
    made_ns = (NOW_MS - age_s * 1000) * 10**6
    return Report(APP, made_ns=made_ns, acknowledged=(), dropped={"x": dropped}, last=last)


def row(producer_id: bytes = APP, **counts: object) -> Row:
    """Produced is the sum, unless it is given."""
    made = Row(producer_id=producer_id, **counts)  # type: ignore[arg-type]
    if "produced" not in counts:
        parts = ("stored", "sampled", "dead_lettered", "in_flight", "dropped", "missing")
        made.produced = sum(getattr(made, name) for name in (*parts, "settled", "unaccounted"))
    return made


def statement(*rows: Row, gone: Row | None = None, gone_producers: int = 0, **other) -> Statement:
    totals = Row()
    for one in (*rows, *((gone,) if gone else ())):
        totals.add(one)
    ranked = sorted(rows, key=lambda one: (one.adds_up, -one.produced, one.producer_id))
    values = {"not_kept": [], "removed": {}} | other
    return Statement(ranked, gone or Row(), gone_producers, totals, **values)


def said(given: Statement, *, everybody: bool = False) -> list[str]:
    return list(lines(given, NOW_MS, everybody=everybody))


def test_each_producer_is_an_equation_under_its_heads():
    counts = {"stored": 1_234_567, "sampled": 20, "dead_lettered": 3, "in_flight": 4, "dropped": 5}
    head, line, totals, verdict = said(statement(row(report=report(), repeated=6, **counts)))
    assert line == (
        "6170702d30303031   1,234,599 =  1,234,567 +       20 +        3 +         4 +        5"
        "         0         6  3 s ago"
    )
    for name, text in (
        ("PRODUCED", "1,234,599"),
        ("STORED", "1,234,567"),
        ("SAMPLED", "20"),
        ("DEAD", "3"),
        ("IN FLIGHT", "4"),
        ("DROPPED", "5"),
        ("MISSING", "0"),
        ("REPEATED", "6"),
    ):
        end = head.index(f" {name}") + len(name) + 1
        assert line[:end].endswith(f" {text}"), name
    assert line[head.index("LAST REPORT") :] == "3 s ago"
    assert totals.split()[0] == "all"
    assert totals.split()[1] == "1,234,599"
    assert verdict == "everything adds up"


def test_who_does_not_add_up_is_named_with_partition_and_numbers():
    places = {2: [(5, 9)], 0: [(7, 7), (1_000, 1_001)]}
    wrong = row(missing=8, stored=2, places=places)
    given = statement(wrong, row(OTHER, stored=100))
    text = said(given)
    assert not given.adds_up
    assert "everything adds up" not in text
    assert text[1].startswith("6170702d30303031 "), "first, though the other is larger"
    assert text[-2:] == [
        "1 of 2 producers do not add up:",
        "  6170702d30303031: 8 missing (partition 0: 7, 1000-1001; partition 2: 5-9)",
    ]


def test_of_many_runs_the_first_are_told_and_the_rest_counted():
    runs = [(n * 10, n * 10) for n in range(8)]
    text = said(statement(row(missing=8, places={0: runs})))
    assert text[-1].endswith("8 missing (partition 0: 0, 10, 20, 30, 40 and 3 more runs)")


def test_what_is_not_known_where_has_no_place():
    assert said(statement(row(missing=3)))[-1] == "  6170702d30303031: 3 missing"


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (None, "none"),
        (report(age_s=75), "75 s ago"),
        (report(age_s=75, last=True), "75 s ago, ended"),
        (report(age_s=-5), "0 s ago"),
    ],
)
def test_when_a_producer_has_reported(told: Report | None, text: str):
    assert said(statement(row(stored=1, report=told)))[1].endswith(f"  {text}")


def test_records_without_a_header_have_a_line_of_their_own():
    assert said(statement(row(UNNUMBERED, stored=1)))[1].startswith("(no header) ")


def test_those_that_are_gone_are_one_line_and_make_nothing_wrong():
    given = statement(row(stored=1), gone=row(b"", stored=10, missing=2), gone_producers=1_234)
    text = said(given)
    [gone] = [line for line in text if line.startswith("(gone)")]
    assert gone.endswith("1,234 accounts closed")
    assert gone.split()[1] == "12"
    assert "2 are missing of producers whose accounts are closed" in text
    assert text[-1] == "everything adds up"
    assert not [line for line in said(statement(row(stored=1))) if line.startswith("(gone)")]


def test_what_is_explained_is_told_below_the_table():
    text = said(statement(row(stored=1, settled=1_000, unaccounted=2), not_kept=[1, 3]))
    assert text[3:] == [
        "of PRODUCED 1,000 are pieces of values that were decided before they came again",
        "of PRODUCED 2 were committed while no ledger was kept: nothing is known of them",
        "no ledger is kept yet of partition 1, 3",
        "everything adds up",
    ]


def test_what_was_removed_unread_is_told_by_partition_and_is_wrong_though_no_producer_is():
    given = statement(row(stored=1), removed={3: 1_500, 1: 2})
    assert not given.adds_up
    assert said(given)[-2:] == [
        "partition 1: 2 records were removed before any worker had read them",
        "partition 3: 1,500 records were removed before any worker had read them",
    ]


def test_the_largest_are_shown_and_with_all_everybody():
    rows = [row(bytes([n]) * 8, stored=n) for n in range(1, 31)]
    wrong = row(APP, stored=0, missing=1)
    given = statement(*rows, wrong)
    text = said(given)
    assert text[1].startswith(APP.hex())
    assert text[2].startswith("1e1e")
    assert "... and 11 more that add up (--all shows them)" in text
    shown = [line for line in text if " = " in line and not line.startswith(("PRODUCER", "all"))]
    assert len(shown) == 20
    everybody = said(given, everybody=True)
    assert len([line for line in everybody if " = " in line]) == len(rows) + 3
    assert not [line for line in everybody if "--all" in line]


def test_however_many_are_wrong_all_are_shown():
    rows = [row(bytes([n]) * 8, missing=1) for n in range(1, 31)]
    text = said(statement(*rows, row(APP, stored=1_000)))
    assert "30 of 31 producers do not add up:" in text
    assert len([line for line in text if line.endswith(": 1 missing")]) == 30
    assert "... and 1 more that add up (--all shows them)" in text


def test_json_says_the_same_to_programs():
    wrong = row(missing=2, stored=3, places={1: [(4, 5)]}, report=report(last=True, dropped=7))
    given = statement(wrong, gone=row(b"", missing=1), gone_producers=2, removed={0: 9})
    text = as_json(given, NOW_MS)
    assert text.endswith("}\n")
    content = json.loads(text)
    assert (content["adds_up"], content["removed_unread"]) == (False, {"0": 9})
    assert content["totals"]["produced"] == 6
    assert (content["gone"]["accounts"], content["gone"]["missing"]) == (2, 1)
    [producer] = content["producers"]
    assert producer["producer"] == APP.hex()
    assert (producer["adds_up"], producer["missing_by_partition"]) == (False, {"1": [[4, 5]]})
    assert producer["report"] == {
        "age_ms": 3_000,
        "started_ms": 0,
        "dropped": {"x": 7},
        "spooled": 0,
        "ended": True,
    }
