"""A part of the traces is kept, and of each of them all: as MLflow samples at the root."""

from pathlib import Path

import pytest

from tests.bridge.programs import Done, run
from tests.bridge.programs.sampled import SPANS, TRACES

HALF = range(TRACES // 2 - 70, TRACES // 2 + 71)  # seven standard deviations to each side

OVERRIDDEN = ("decorated", "awaited", "generated")
ALL_WAYS = (*OVERRIDDEN, "block", "no_context")


def assert_kept(done: Done, ways: tuple[str, ...], wanted: range) -> None:
    for way in ways:
        assert done[way]["kept"] in wanted, (way, done.account)
        assert done[way]["spans"] == [SPANS], way


@pytest.mark.parametrize("learnt", [False, True])
def test_the_variable(tmp_path: Path, accelerate: bool, learnt: bool) -> None:
    variables = {"MLFLOW_TRACE_SAMPLING_RATIO": "0.5"}
    done = run("sampled", tmp_path, variables, accelerate=accelerate, learnt=learnt)
    assert_kept(done, ALL_WAYS, HALF)
    if learnt:
        assert not done["learnt"]  # the short way is for where all is kept


@pytest.mark.parametrize("learnt", [False, True])
def test_the_override(tmp_path: Path, accelerate: bool, learnt: bool) -> None:
    done = run("sampled", tmp_path, {}, accelerate=accelerate, learnt=learnt, override=0.5)
    assert_kept(done, OVERRIDDEN, HALF)
    if learnt:  # MLflow's own spans have no short way
        assert done["learnt"] is accelerate


def test_the_override_goes_before_the_variable(tmp_path: Path, accelerate: bool) -> None:
    variables = {"MLFLOW_TRACE_SAMPLING_RATIO": "0.5"}
    done = run("sampled", tmp_path, variables, accelerate=accelerate, override=1.0)
    assert_kept(done, OVERRIDDEN, range(TRACES, TRACES + 1))


def test_below_a_root_that_is_kept_all_is(tmp_path: Path, accelerate: bool) -> None:
    done = run("sampled", tmp_path, {}, accelerate=accelerate, below=True)
    assert done["below a root"] == {"kept": TRACES, "spans": [SPANS + 1]}
