"""A traced request executes no more than it did when its count was recorded."""

import functools

import pytest

from benchmarks.instructions import (
    GROUPS,
    PATHS,
    SPANS,
    Counts,
    count,
    environment,
    recorded,
)
from spanferry.budget import WATCH_ONE_OF_SLOW

ALLOWED = 1.03
"""So much more may be a patch release of Python or of a library."""
REMEDY = (
    "{path} now takes {found} where {ceiling} was recorded for {environment}. Every traced request of "
    "every user pays it. If it is worth it: python -m benchmarks.instructions --record"
)


GUARD_BYTECODE_MAX = 40
"""For each span of all traces: some 0.4 us."""


@functools.cache
def counted(group: tuple[str, ...]) -> dict[str, Counts]:
    return count(*group)


def found_of(path: str) -> Counts:
    [group] = [group for group in GROUPS if path in group]
    return counted(group)[path]


@pytest.mark.parametrize("path", PATHS)
def test_a_traced_request_costs_no_more_than_recorded(path: str) -> None:
    held = recorded().ceilings.get(environment())
    if held is None:
        pytest.skip(f"no counts for {environment()}: python -m benchmarks.instructions --record")
    ceiling = held[path]

    found = found_of(path)

    said = REMEDY.format(path=path, found=found, ceiling=ceiling, environment=environment())
    assert found.bytecode <= ceiling.bytecode * ALLOWED, said
    assert found.c_calls <= ceiling.c_calls * ALLOWED, said
    # a count that is far too small is of something else, and so would be the next one recorded
    assert found.bytecode >= ceiling.bytecode / 2, said


@pytest.mark.parametrize(
    ("path", "watched"), [("spanferry", "watched"), ("bridge", "bridge-watched")]
)
def test_the_guards_measuring_is_below_a_microsecond_a_span(path: str, watched: str) -> None:
    """Where most traces are watched, which is where values are slow to record."""
    more = found_of(watched).bytecode - found_of(path).bytecode

    assert 0 < more / SPANS / WATCH_ONE_OF_SLOW <= GUARD_BYTECODE_MAX


def test_the_supported_mlflow_is_recorded_for_some_python() -> None:
    """Else the test above would be skipped everywhere after an upgrade."""
    version = environment().partition(", ")[2]

    assert any(name.endswith(version) for name in recorded().ceilings), (
        f"no counts for {version}: python -m benchmarks.instructions --record"
    )


def test_counting_sees_one_more_instruction_and_one_more_call() -> None:
    from benchmarks.instructions import _count_bytecode, _count_c_calls

    def less() -> None:
        len("")

    def more() -> None:
        len("")
        len("")

    assert _count_bytecode(more) - _count_bytecode(less) in range(2, 10)
    assert _count_c_calls(more) - _count_c_calls(less) == 1
    assert _count_bytecode(less) == _count_bytecode(less)


def test_every_path_is_recorded() -> None:
    for by_path in recorded().ceilings.values():
        assert set(by_path) == set(PATHS)
        assert all(isinstance(one, Counts) and one.bytecode > 100 for one in by_path.values())
