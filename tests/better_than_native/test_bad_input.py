"""Bad input through MLflow's API: the app sees nothing of it, and a trace is lost by none of it."""

import pytest
from mlflow import MlflowClient

from tests.better_than_native.account import wait_until
from tests.producer.topic import read_topic

pytestmark = [pytest.mark.kafka, pytest.mark.mlflow, pytest.mark.timeout(180)]

BOTH_BRIDGES = pytest.mark.parametrize("accelerate", [True, False])


def numbers_of(found):
    return sorted(one.number for one in found)


def test_an_mlflow_that_is_too_old_stays_as_it_is(line):
    experiment = line.new_experiment()
    done = line.run("bad_input", experiment, case="one_trace", version="2.22.0")
    assert done["ferried"] == 0
    said = [text for text in done.errors.splitlines() if "does not go through spanferry" in text]
    assert len(said) == 1
    assert "MLflow 2.22.0 is too old: install mlflow>=3." in said[0]
    assert "spanferry.start_span" in said[0]
    assert numbers_of(line.stored(experiment)) == [0]


def test_an_mlflow_that_is_too_new_keeps_its_own_spans(line):
    experiment = line.new_experiment()
    done = line.run("bad_input", experiment, case="one_trace", version="9.9.0")
    assert done["ferried"] == 1
    said = [text for text in done.errors.splitlines() if "9.9.0 is newer" in text]
    assert len(said) == 1
    assert numbers_of(line.wait_for(experiment, 1)) == [0]


@BOTH_BRIDGES
def test_a_span_processor_that_fails(line, accelerate):
    experiment = line.new_experiment()
    done = line.run("bad_input", experiment, case="processor", accelerate=accelerate)
    assert done["outcomes"] == ["A"]
    assert numbers_of(line.wait_for(experiment, 1)) == [0]


def test_values_that_cannot_be_encoded(native, line, note):
    alone = native.run("bad_input", native.new_experiment(), case="hostile", waits=False)
    raised = [one for one in alone["outcomes"] if one != "fine"]
    note(f"native: {len(raised)} of 12 values raise into the app: {raised}")

    # MLflow's own spans raise as they do natively, and their traces are kept.
    for accelerate, outcomes in ((True, ["fine"] * 12), (False, alone["outcomes"])):
        experiment = line.new_experiment()
        done = line.run("bad_input", experiment, case="hostile", accelerate=accelerate)
        assert done["outcomes"] == outcomes
        found = line.wait_for(experiment, 12)
        assert numbers_of(found) == list(range(12))
        assert {one.spans for one in found} == {1}


def test_texts_longer_than_mlflows_columns(line):
    """They hold 8,000 characters, names 250; of all databases only SQLite would take more."""
    for accelerate in (True, False):
        experiment = line.new_experiment()
        done = line.run("bad_input", experiment, case="lengths", accelerate=accelerate)
        assert done["outcomes"][:4] == ["fine"] * 4
        assert numbers_of(line.wait_for(experiment, 5)) == [0, 1, 2, 3, 4]
        cut, cut_name = {len("long"): 8_000}, {250: len("short")}
        assert long_texts(line, experiment) == {0: cut, 1: cut, 2: cut_name, 3: cut_name, 4: {}}


def long_texts(way, experiment):
    """By number of trace: how long its texts are, by how long their names are."""
    client = MlflowClient(way.tracking_uri)
    found = {}
    for one in way.stored(experiment):
        info = client.get_trace(one.trace_id).info
        texts = info.trace_metadata | info.tags
        found[one.number] = {
            len(name): len(text)
            for name, text in texts.items()
            if not name.startswith("mlflow.") and name != "number"
        }
    return found


@BOTH_BRIDGES
def test_an_experiment_that_does_not_exist(line, accelerate):
    experiment = line.new_experiment()
    dead_before = len(dead_letters(line))
    done = line.run(
        "bad_input", experiment, case="no_experiment", accelerate=accelerate, waits=False
    )
    assert done["ferried"] == 3
    assert numbers_of(line.wait_for(experiment, 2)) == [0, 2]
    assert wait_until(lambda: len(dead_letters(line)) > dead_before, 60)
    [letter] = dead_letters(line)[dead_before:]
    headers = {name: value.decode() for name, value in letter.headers if name.startswith("dlq.")}
    assert headers["dlq.reason"]
    assert "424242" in headers["dlq.message"]


def dead_letters(line):
    return [
        letter
        for letter in sorted(
            read_topic(line.kafka.bootstrap_servers, f"{line.topic}.dlq"),
            key=lambda one: one.timestamp,
        )
        if "424242" in dict(letter.headers)["dlq.message"].decode()
    ]
