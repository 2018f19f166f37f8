"""Rates from pages: per process and in total, over restarts and absences."""

import pytest

from spanferry_worker.services.metrics import Metrics
from spanferry_worker.top.account import Account
from spanferry_worker.top.page import Counts, read_page
from tests.worker.top.pages import account, counts, metrics, supervised


def test_a_page_of_one_worker():
    found = read_page(metrics(100, lag=7, dead=2).exposition().decode())
    assert list(found) == [""]
    one = found[""]
    assert one.counters["records"] == one.counters["stored"] == 100
    assert one.of("outcome") == {"full": 75, "skeleton": 25}
    dead = one.of("dead")
    assert dead.pop("refused") == 2
    assert dead
    assert set(dead.values()) == {0}
    assert one.gauges["lag_records"] == 14
    assert one.gauges["lag_bytes"] == 14_000
    assert one.gauges["lag_s"] == 0.7
    assert one.gauges["memory_bytes"] > 1e6


def test_a_page_of_a_supervisor_is_its_processes():
    found = read_page(supervised(metrics(100), metrics(300)))
    assert {name: one.counters["records"] for name, one in found.items()} == {"0": 100, "1": 300}


@pytest.mark.parametrize("text", ["", "<html>", "other_metric 1\n", "a b c d e"])
def test_what_is_no_workers_page_is_refused(text: str):
    with pytest.raises(ValueError):
        read_page(text)


def test_every_metric_that_is_shown_exists():
    from spanferry_worker.top import page

    known = {
        sample.name
        for family in Metrics().registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    one = Metrics()
    labelled = {
        f"{metric._name}{'_total' if metric._type == 'counter' else ''}"
        for metric in vars(one).values()
        if hasattr(metric, "_labelnames")
    }
    shown = {*page._COUNTERS, *page._SUMS, *page._HIGHEST}
    assert shown <= known | labelled


def test_rates_are_what_came_between_two_looks():
    looked = account({"a": counts(100), "b": counts(0)}, {"a": counts(150), "b": counts(20)})
    a, b = looked.processes
    assert (a.rates["records"], b.rates["records"]) == (50, 20)
    total = looked.total()
    assert total.rates["records"] == 70
    assert total.rates["bytes"] == 70_000
    assert total.counters["records"] == 170
    assert list(looked.history["records"]) == [0, 70]


def test_one_look_gives_no_rates():
    [process] = account({"a": counts(100)}).processes
    assert process.rates == {}
    assert process.state == "ready"


def test_counters_that_begin_anew_are_no_negative_rate():
    looked = account({"a": counts(1000)}, {"a": counts(30)})
    [process] = looked.processes
    assert process.rates["records"] == 30
    assert process.restarts == 1
    assert looked.recent()["records"] == 30


def test_a_worker_that_does_not_answer_is_kept_and_counts_for_nothing():
    looked = account({"a": counts(100), "b": counts(100)}, {"a": counts(110), "b": None})
    a, b = looked.processes
    assert (a.state, b.state) == ("ready", "no answer")
    assert b.rates == {}
    assert b.problem == "nothing listens there"
    assert looked.total().counters["records"] == 110


def test_after_an_absence_the_rate_is_that_of_all_the_time():
    looked = account({"a": counts(100)}, {"a": None}, {"a": counts(160)})
    [process] = looked.processes
    assert process.rates["records"] == 30
    assert process.restarts == 0


def test_states():
    paused = metrics(1)
    paused.consume_paused.set(1)
    looked = account(
        {
            "a": counts(ready=False),
            "b": read_page(paused.exposition().decode())[""],
            "c": None,
        }
    )
    assert [process.state for process in looked.processes] == ["waiting", "paused", "no answer"]


def test_the_recent_past_is_one_minute():
    made = Account()
    for at_s in range(0, 200, 10):
        made.saw("a", Counts({"records": float(at_s)}), float(at_s))
        made.finish(float(at_s))
    assert made.recent()["records"] == 70
    assert len(made.history["records"]) == 20


def test_processes_are_in_the_order_of_their_numbers():
    names = ["host:1#10", "host:1#2", "host:1#0", "a:1"]
    looked = account(dict.fromkeys(names))
    assert [one.name for one in looked.processes] == ["a:1", "host:1#0", "host:1#2", "host:1#10"]
