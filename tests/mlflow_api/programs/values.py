"""Inputs and outputs of every kind that Python has."""

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import json
import math
import pathlib
import uuid
from typing import NamedTuple

import mlflow
import pydantic

from tests.mlflow_api.registry import program


class Colour(enum.Enum):
    """Of another value than its name."""

    RED = "red"
    BLUE = 2


class Level(enum.IntEnum):
    """A number too."""

    HIGH = 3


class Word(enum.StrEnum):
    """A text too."""

    YES = "yes"


@dataclasses.dataclass
class Point:
    """With another inside."""

    x: object
    y: object = None


class Document(pydantic.BaseModel):
    """What retrievers give."""

    text: str
    score: float | None = None
    meta: dict[str, object] = {}


class Plain:
    """Says something of itself."""

    def __str__(self):
        return "plain object"

    __repr__ = __str__


class Pair(NamedTuple):
    """A tuple with names."""

    left: object
    right: object


def show(values):
    """One span for each value."""
    for name, value in values.items():
        with mlflow.start_span(name) as span:
            span.set_inputs(value)
            span.set_outputs({"nested": [value]})
            span.set_attribute("own", value)


@program()
def plain_values(stage):
    show(
        {
            "text": "x",
            "numbers": [0, -1, 1.5, 1e-7, 1e20, 123456789012345678, 0.1],
            "words": [True, False, None],
            "nested": {"a": {"b": {"c": [[], {}, [[]]]}}},
            "keys": {1: "a", 2.5: "b", None: "c", False: "d"},
            "pairs": [("a", 1), ("b", (2, 3))],
        }
    )


@program()
def very_large_numbers(stage):
    show({"more than 64 bits": 2**70, "negative": [-(2**70)], "just 64 bits": 2**63 - 1})


@program()
def unicode_values(stage):
    with mlflow.start_span("größe 日本語 🎉") as span:
        span.set_inputs({"ключ": "значение", "emoji": "🎉", "sep": "\u2028", "esc": 'a"b\\c/\n\t'})
        span.set_outputs("日本語" * 200)
        span.set_attribute("ünï", "✓ \x00 \x7f")


@program()
def lone_surrogates(stage):
    with mlflow.start_span("root") as span:
        span.set_inputs({"half": "a\ud800b", "\udfff": 1})
        span.set_outputs("\ud83d")


@program()
def not_a_number(stage):
    show({"nan": math.nan, "inf": math.inf, "list": [1.0, -math.inf, math.nan]})


@program()
def bytes_of_a_file(stage):
    show({"ascii": b"ab", "any": b"\xff\x00", "array": bytearray(b"ab"), "view": memoryview(b"x")})


@program()
def dates_and_times(stage):
    moment = dt.datetime(2024, 1, 2, 3, 4, 5, 678, tzinfo=dt.UTC)
    show(
        {
            "datetime": moment,
            "naive": moment.replace(tzinfo=None),
            "date": moment.date(),
            "time": moment.time(),
            "delta": dt.timedelta(hours=1.5),
        }
    )


@program()
def enums(stage):
    show({"plain": Colour.RED, "of a number": Colour.BLUE, "int": Level.HIGH, "str": Word.YES})
    show({"as keys": {Word.YES: 1, Colour.RED: 2}})


@program()
def sets_and_other_containers(stage):
    show(
        {
            "set": {3},
            "frozenset": frozenset({"a"}),
            "deque": collections.deque([1, 2]),
            "counter": collections.Counter("aab"),
            "ordered": collections.OrderedDict(a=1, b=2),
            "default": collections.defaultdict(list, a=[1]),
            "named": Pair(1, "r"),
            "range": range(3),
            "user dict": collections.UserDict(a=1),
        }
    )


@program()
def numbers_of_other_types(stage):
    show(
        {
            "decimal": decimal.Decimal("1.50"),
            "fraction": fractions.Fraction(1, 3),
            "complex": 1 + 2j,
            "uuid": uuid.UUID(int=5),
            "path": pathlib.PurePosixPath("a/b"),
        }
    )


@program()
def objects(stage):
    show({"plain": Plain(), "class": Plain, "function": len, "error": ValueError("a", "b")})
    show({"inside": {"object": Plain(), "list": [Plain(), 1]}, "module": json})


@program()
def dataclasses_and_models(stage):
    show(
        {
            "dataclass": Point(1, Point("a", [1])),
            "model": Document(text="ü", meta={"a": 1}),
            "models": [Document(text="a", score=0.5), {"m": Document(text="b")}],
            "model in dataclass": Point(Document(text="c")),
            "dataclass type": Point,
        }
    )


@program(needs=("numpy",))
def numpy_values(stage):
    import numpy as np

    show(
        {
            "float64": np.float64(1.5),
            "float32": np.float32(0.5),
            "int64": np.int64(3),
            "bool": np.bool_(True),
            "array": np.array([[1, 2], [3, 4]]),
            "inside": {"a": np.array([0.5]), "b": [np.int8(1)]},
            "text": np.str_("x"),
        }
    )


@program(needs=("pandas",))
def data_frames(stage):
    import pandas as pd

    show({"frame": pd.DataFrame({"a": [1, 2], "b": ["x", None]}), "series": pd.Series([1, 2])})


@program()
def values_that_hold_themselves(stage):
    circular = {"a": 1}
    circular["self"] = circular
    ring = [1]
    ring.append(ring)
    errors = []
    for name, value in {"dict": circular, "list": ring}.items():
        try:
            show({name: value})
        except RecursionError as error:
            errors.append(type(error).__name__)
    return errors


@program()
def deep_values(stage):
    value = []
    for _ in range(15):
        value = [{"in": value}]
    show({"deep": value})


@program()
def values_deeper_than_the_server_reads(stage):
    value = []
    for _ in range(60):
        value = [value]
    show({"deep": value})


@program()
def keys_that_are_no_text(stage):
    show({"tuple": {(1, 2): 3}, "object": {Plain(): 1}, "date": {dt.date(2024, 1, 2): 1}})


@program()
def long_values(stage):
    with mlflow.start_span("root") as span:
        span.set_inputs({"rows": [{"id": i, "text": f"row {i}"} for i in range(1_000)]})
        span.set_outputs("z" * 100_000)


@program()
def values_that_look_like_json(stage):
    show({"object": '{"a": 1}', "number": "42", "quoted": '"x"', "word": "null", "empty": ""})


@program()
def retrieved_documents(stage):
    with mlflow.start_span("retrieve", span_type="RETRIEVER") as span:
        span.set_inputs("question")
        span.set_outputs(
            [
                mlflow.entities.Document(page_content="text", metadata={"doc_uri": "a/b"}, id="1"),
                {"page_content": "plain", "metadata": {}},
            ]
        )


@program()
def messages_as_objects(stage):
    with mlflow.start_span("chat", span_type="CHAT_MODEL") as span:
        span.set_inputs([Document(text="hello"), Point("user", "hi")])
        span.set_outputs({"role": Word.YES, "at": dt.date(2024, 1, 2)})
