"""Bad input through MLflow's API: the app sees nothing of it, and a trace is lost by none of it."""

import pytest
from mlflow import MlflowClient

from tests.better_than_native.account import wait_until
from tests.producer.topic import read_topic

pytestmark = [pytest.mark.kafka, pytest.mark.mlflow]

BOTH_BRIDGES = pytest.mark.parametrize("accelerate", [True, False])


def said_once(done, what, remedy):
    """One line of the app's log says what is wrong, and what to do."""
    [line] = [line for line in done.errors.splitlines() if what in line]
    assert remedy in line


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
    assert "Upgrade spanferry, or install mlflow<=3." in said[0]
    assert numbers_of(line.wait_for(experiment, 1)) == [0]


@BOTH_BRIDGES
def test_a_span_processor_that_fails(line, accelerate):
    experiment = line.new_experiment()
    done = line.run("bad_input", experiment, case="processor", accelerate=accelerate)
    assert done["outcomes"] == ["A", "B"]
    assert numbers_of(line.wait_for(experiment, 2)) == [0, 1]
    if accelerate:  # else MLflow's own spans call it, and MLflow says so for each of them
        said_once(
            done, "span processor fails failed (the user's processor)", "Mend it, or take it out"
        )


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
        if accelerate:
            said_once(
                done, "neither str() nor repr() of a value works", "Record its fields instead"
            )
            said_once(done, "a value of <class 'dict'> cannot be JSON", "Record the parts")


def test_texts_longer_than_mlflows_columns(line):
    """They hold 8,000 characters, names 250; of all databases only SQLite would take more."""
    for accelerate in (True, False):
        experiment = line.new_experiment()
        done = line.run("bad_input", experiment, case="lengths", accelerate=accelerate)
        assert done["outcomes"][:4] == ["fine"] * 4
        assert numbers_of(line.wait_for(experiment, 5)) == [0, 1, 2, 3, 4]
        cut, cut_name = {len("long"): 8_000}, {250: len("short")}
        assert long_texts(line, experiment) == {0: cut, 1: cut, 2: cut_name, 3: cut_name, 4: {}}
        remedy = "put long texts into an attribute of a span"
        said_once(done, "the value of tag 'long' has 20000 characters, MLflow holds 8000", remedy)
        said_once(
            done, "the value of metadata 'long' has 20000 characters, MLflow holds 8000", remedy
        )
        said_once(done, "the name of tag", remedy)
        said_once(done, "the name of metadata", remedy)


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
    """However many traces name it, those of others are stored, and the worker goes on."""
    experiment = line.new_experiment()
    bad = f"42424{int(accelerate)}"
    done = line.run(
        "bad_input",
        experiment,
        case="no_experiment",
        accelerate=accelerate,
        waits=False,
        bad=bad,
    )
    assert done["ferried"] == 82
    assert numbers_of(line.wait_for(experiment, 2)) == [0, 81]
    assert wait_until(lambda: len(dead_letters(line, bad)) >= 80, 150)
    letters = dead_letters(line, bad)
    assert len(letters) == 80
    for letter in letters:
        headers = {
            name: value.decode() for name, value in letter.headers if name.startswith("dlq.")
        }
        assert headers["dlq.reason"] == "no_experiment"
        assert "set the app's experiment to one that exists" in headers["dlq.message"]
    said = [text for text in line.worker.log_tail(100_000).splitlines() if f"{bad}'" in text]
    dead = [text for text in said if "held back" not in text]
    assert len(dead) == 1, said
    assert len(said) <= 2, "the breaker's, which may hold them for a moment"
    assert line.worker.running


def dead_letters(line, experiment):
    return [
        letter
        for letter in read_topic(line.kafka.bootstrap_servers, f"{line.topic}.dlq")
        if experiment in dict(letter.headers)["dlq.message"].decode()
    ]
