"""Encoding of any value: what MLflow stores where it can, and never an exception."""

import dataclasses
import datetime as dt
import decimal
import enum
import io
import json
import math
import threading
import uuid
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from typing import Any, NamedTuple

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.tracing.utils import dump_span_attribute_value

from spanferry import values
from tests.producer.hostile import (
    BrokenModel,
    HalfMade,
    Hostile,
)


class Model(pydantic.BaseModel):
    """A pydantic model with another in it."""

    number: int
    inner: "Model | None" = None


@dataclasses.dataclass
class Point:
    """A dataclass whose fields may hold anything."""

    x: object
    y: object = None


@dataclasses.dataclass
class Preset:
    """A dataclass with a default for every field."""

    size: int = 3
    name: str = "none"


class Colour(enum.StrEnum):
    """A string enum."""

    RED = "red"


class Words(str):
    """A string of a type of its own."""

    __slots__ = ()


class Pair(NamedTuple):
    """A tuple with names."""

    left: int
    right: int


def cyclic() -> dict[str, Any]:
    """A dict that holds itself."""
    value: dict[str, Any] = {"a": 1}
    value["self"] = value
    return value


SAME_AS_MLFLOW = [
    None,
    True,
    1,
    -0.5,
    "text",
    "Grüße 🚢",
    'quote " and \\ and \n',
    [],
    {},
    [1, [2, (3, 4)]],
    {"a": {"b": [1, 2]}},
    {1: "a", 2.5: "b"},
    {None: 1, True: 2, False: 3},
    {(1, 2): 3},
    {frozenset({1}): 3},
    2**70,
    10**400,
    OrderedDict(a=1),
    defaultdict(int, a=1),
    Counter("a"),
    Pair(1, 2),
    Words("words"),
    [Words("words")],
    {Words("key"): 1},
    Colour.RED,
    {Colour.RED: Colour.RED},
    np.float64(1.5),
    decimal.Decimal("1.50"),
    uuid.UUID(int=5),
    dt.date(2024, 1, 2),
    Model(number=1, inner=Model(number=2)),
    [Model(number=1), {"m": Model(number=2)}],
    Point(1, {"a": Point(2)}),
    Point(Model(number=1), Point(object)),
    Point,
    Preset,
    {"class": Preset},
    deque([1]),
    range(3),
    object,
    len,
    ValueError("a", "b"),
    1j,
    UserDict(a=1),
    cyclic(),
    [cyclic()],
]


@pytest.mark.parametrize("value", SAME_AS_MLFLOW, ids=lambda value: repr(value)[:40])
def test_as_mlflow_stores_it(value: object) -> None:
    assert json.loads(values.encode(value)) == json.loads(dump_span_attribute_value(value))


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (math.nan, None),
        (math.inf, None),
        (b"ab\xff", "YWL/"),
        (dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "2024-01-02T03:04:05Z"),
        ({3}, [3]),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.int64(3), 3),
        ({"a": np.float32(0.5), "b": object}, {"a": 0.5, "b": "<class 'object'>"}),
        (enum.Enum("Plain", {"A": 1}).A, 1),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_where_it_differs_from_mlflow_on_purpose(value: object, stored: object) -> None:
    assert json.loads(values.encode(value)) == stored


def deep(levels: int) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def test_what_is_odd_leaves_its_neighbours_as_they_are() -> None:
    stored = json.loads(
        values.encode({"good": [1, {"a": "b"}], "bad": Hostile(), "broken": BrokenModel()})
    )
    assert stored["good"] == [1, {"a": "b"}]
    assert stored["bad"].startswith("<spanferry: cannot record Hostile")
    assert stored["broken"] == "broken"
    assert json.loads(values.encode({"text": "a\ud800b", "n": 1})) == {"text": "a?b", "n": 1}
    assert json.loads(values.encode(HalfMade())) == {"there": 1}
    assert json.loads(values.encode([HalfMade(), object])) == [{"there": 1}, "<class 'object'>"]


def test_a_deep_value_keeps_its_upper_levels() -> None:
    stored = json.loads(values.encode({"a": deep(5_000), "b": 1}))
    assert stored["b"] == 1
    levels = 0
    while isinstance(stored := stored["a"] if levels == 0 else stored[0], list):
        levels += 1
    assert 90 <= levels <= 110
    assert "deep" in stored


def test_the_slow_way_is_bounded() -> None:
    stored = json.loads(values.encode([[object] for _ in range(100_000)]))
    assert len(stored) == 100_000
    assert stored[0] == ["<class 'object'>"]
    assert "too many parts" in stored[-1]


def test_generators_and_files_are_not_consumed() -> None:
    numbers = iter([1, 2, 3])
    squares = (number * number for number in (1, 2, 3))
    file = io.StringIO("content")
    values.encode({"iterator": numbers, "generator": squares, "file": file})
    assert (list(numbers), list(squares), file.read()) == ([1, 2, 3], [1, 4, 9], "content")


def test_a_container_that_changes_under_our_hands_does_no_harm() -> None:
    # msgspec reads the members of a list without owning them: encoding this through a hook ends
    # the process with a segmentation fault.
    outer: list[Any] = []

    class Clears:
        def __str__(self) -> str:
            outer.clear()
            return "cleared"

    for _ in range(20):
        outer[:] = [["x" * 100, Clears(), "y" * 100] for _ in range(100)]
        stored = json.loads(values.encode({"outer": outer}))
        assert stored["outer"][0][1] == "cleared"
        assert len(stored["outer"]) == 100


def test_a_dict_that_other_threads_change_is_encoded() -> None:
    shared: dict[Any, Any] = {n: {"n": n, "o": object()} for n in range(200)}
    stop = threading.Event()

    def change() -> None:
        n = 200
        while not stop.is_set():
            shared[n] = {"n": n, "o": object()}
            shared.pop(n - 200, None)
            n += 1

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(30):
            assert isinstance(json.loads(values.encode(shared)), dict)
    finally:
        stop.set()
        thread.join()


def test_a_model_whose_dict_changes_meanwhile_is_asked_again() -> None:
    class Changing:
        tries = 0

        def model_dump(self) -> dict[str, int]:
            self.tries += 1
            if self.tries == 1:
                raise RuntimeError("dictionary changed size during iteration")
            return {"tries": self.tries}

    assert json.loads(values.encode(Changing())) == {"tries": 2}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_is_not_held_up(stop: type[BaseException]) -> None:
    class Stops:
        def __str__(self) -> str:
            raise stop

    with pytest.raises(stop):
        values.encode(Stops())


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_plain_data_comes_back(value: Any) -> None:
    stored = json.loads(values.encode(value))
    if b"?" not in values.encode(value):  # lone surrogates are replaced
        assert stored == json.loads(json.dumps(value))


@given(JSON)
def test_the_slow_way_agrees_with_the_fast_one(value: Any) -> None:
    fast = json.loads(values.encode([value, "object"]))
    slow = json.loads(values.encode([value, Words("object")]))
    assert slow == fast


def test_text_of_anything_is_text() -> None:
    assert values.text(3) == "3"
    assert values.text("a\ud800") == "a?"
    assert values.text(Words("w")) == "w"
    assert values.text(Hostile()) == "<spanferry: cannot record Hostile>"


@pytest.mark.parametrize("item", ["é", 1, {"a": ["é", 2]}, None, Model(number=1), "\ud800x"])
def test_chunks_are_what_mlflow_stores_of_stream_items(item: object) -> None:
    from mlflow.tracing.utils import TraceJSONEncoder

    stored = values.chunk_text(values.encode(item))
    assert stored == json.dumps(item, cls=TraceJSONEncoder).replace("\\ud800", "?")
