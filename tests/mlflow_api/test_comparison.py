"""The comparison sees what it must see, and nothing else."""

import math

import pytest

from tests.mlflow_api import expected
from tests.mlflow_api.canonical import NO_FILE, name_of_a_file, own_frames
from tests.mlflow_api.comparison import MISSING, Difference, differences
from tests.mlflow_api.golden import Golden
from tests.mlflow_api.intended import INTENDED
from tests.mlflow_api.registry import load_programs
from tests.mlflow_api.skipped import SKIPPED

WHOLE = {"a": [1, {"b": None}], "text": "x", "yes": True, "nan": math.nan, "empty": {}}


def test_equal_values_have_no_differences():
    assert list(differences(WHOLE, {**WHOLE, "nan": float("nan")})) == []


@pytest.mark.parametrize(
    ("change", "path", "native", "ours"),
    [
        ({"a": [1, {"b": 0}]}, "a[1]/b", None, 0),
        ({"a": [1]}, "a", [1, {"b": None}], [1]),
        ({"text": "y"}, "text", "x", "y"),
        ({"yes": 1}, "yes", True, 1),
        ({"nan": 0.0}, "nan", math.nan, 0.0),
        ({"empty": []}, "empty", {}, []),
        ({"new": 1}, "new", MISSING, 1),
    ],
)
def test_every_change_is_found_where_it_is(change, path, native, ours):
    [found] = differences(WHOLE, {**WHOLE, **change})
    assert found.path == path
    assert repr(found.native) == repr(native)
    assert found.ours == ours


def test_what_is_gone_is_found():
    [found] = differences(WHOLE, {key: WHOLE[key] for key in WHOLE if key != "text"})
    assert (found.path, found.native, repr(found.ours)) == ("text", "x", "<not there>")


def test_tracebacks_keep_the_frames_of_the_programs():
    text = """Traceback (most recent call last):
  File "/site-packages/mlflow/tracing/fluent.py", line 372, in wrapper
    return wrapping_coro.send(fn(*args, **kwargs))
           ^^^^^^^^^^^^^^^^^^
  File "/home/x/tests/mlflow_api/programs/failures.py", line 30, in fails
    raise ValueError("bad")
ValueError: bad"""
    assert own_frames(text) == [
        "Traceback (most recent call last):",
        '  File "programs/failures.py", line 30, in fails',
        '    raise ValueError("bad")',
        "ValueError: bad",
    ]


def test_a_file_that_cannot_be_read_is_not_taken_for_one():
    assert name_of_a_file("RestException") == f"{NO_FILE}RestException>"
    assert name_of_a_file(b"RestException").startswith("<file ")
    stored = {"traces": {":root": {"spans": {"root": [NO_FILE, NO_FILE, "<file 1>"]}}}}
    assert expected.files_of(stored) == (1, 2)


def test_lists_name_programs_that_exist():
    programs = set(load_programs())
    named = {name for one in INTENDED for name in one.programs if "*" not in name}
    assert named <= programs
    assert {name for skipped in SKIPPED.values() for name in skipped} <= programs
    for listed in expected.LISTS:
        assert set(listed) <= programs


def test_what_is_written_down_is_known_and_nothing_else():
    golden = Golden({})
    golden.add("plain", "one", Difference("traces/:root", MISSING, {"a": 1, "b": {"c": ["x"]}}))
    golden.add("plain", "one", Difference("returned", "MlflowException", None))
    for known in (
        Difference("traces/:root", MISSING, {"a": 1, "b": {"c": ["x"]}}),
        Difference("traces/:root/b/c", ["y"], ["x"]),
        Difference("returned", 1, None),
    ):
        assert golden.knows("plain", "one", known)
    for unknown in (
        Difference("traces/:root", {"a": 1}, MISSING),
        Difference("traces/:root", MISSING, {"a": 2}),
        Difference("traces/:root", MISSING, {"a": 1, "d": 1}),
        Difference("returned", 1, "none"),
        Difference("elsewhere", 1, 1),
    ):
        assert not golden.knows("plain", "one", unknown)
    assert not golden.knows("accelerated", "one", Difference("returned", 1, None))


def test_long_values_are_told_apart():
    golden = Golden({})
    golden.add("plain", "one", Difference("returned", 1, "x" * 1000 + "a"))
    assert golden.knows("plain", "one", Difference("returned", 1, "x" * 1000 + "a"))
    assert not golden.knows("plain", "one", Difference("returned", 1, "x" * 1000 + "b"))
