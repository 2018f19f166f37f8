"""Values that no encoder likes: never an exception, never a crash, always one JSON text."""

import asyncio
import contextvars
import ctypes
import decimal
import io
import json
import math
import re
import socket
import subprocess
import sys
import threading
import types
import weakref
from typing import Any
from unittest import mock

import numpy as np
import pytest

from spanferry import values
from tests.producer.hostile import (
    BadDict,
    BadList,
    BadWords,
    BrokenModel,
    EndlessModel,
    FromMeta,
    HalfMade,
    Hostile,
    Itself,
    Lengthless,
    Liar,
    RaisingField,
)
from tests.producer.test_values import Model, Words, deep


def hostile_array() -> Any:
    """A numpy array of what numpy cannot print."""
    array = np.empty(1, dtype=object)
    array[0] = Hostile()
    return array


def self_referring_model() -> Any:
    """A pydantic model that holds itself."""
    model = Model(number=1)
    model.inner = model
    return model


def closed_socket() -> socket.socket:
    """One that nobody has to close any more."""
    with socket.socket() as made:
        return made


class Short:
    """Gone as soon as it is made, where a weak reference is all that holds it."""


def released() -> memoryview:
    """A view of nothing any more."""
    view = memoryview(b"x")
    view.release()
    return view


@pytest.mark.parametrize(
    "make",
    [
        Hostile,
        pytest.param(FromMeta, id="FromMeta"),
        BrokenModel,
        EndlessModel,
        HalfMade,
        lambda: {"a": [Hostile(), FromMeta()], "b": BadWords("b"), BadWords("k"): 1},
        lambda: {Hostile(): 1},
        lambda: "\ud800",
        lambda: {"\ud800": ["a\udfffb", Words("\ud800")]},
        lambda: deep(10_000),
        lambda: {"a": deep(10_000), "b": 1},
        lambda: 10**5000,
        lambda: {10**5000: -(10**5000)},
        threading.Lock,
        lambda: io.StringIO("x"),
        released,
        lambda: [released()],
        lambda: np.arange(100_000),
        hostile_array,
        lambda: np.datetime64("2024-01-01"),
        lambda: np.longdouble(1),
        type("Odd", (), {"__dataclass_fields__": 3}),
        Lengthless,
        lambda: {"a": Lengthless(), "b": [Lengthless()]},
        lambda: BadDict(a=1),
        lambda: BadList([1, object]),
        Liar,
        lambda: [Liar(), {"a": Liar()}],
        Itself,
        lambda: {"a": [Itself()]},
        RaisingField,
        self_referring_model,
        asyncio.Lock,
        contextvars.copy_context,
        lambda: (number for number in range(3)),
        closed_socket,
        sys._getframe,
        lambda: sys.modules,
        lambda: weakref.proxy(Short()),
        lambda: np.array(["2024-01-01", "NaT"], dtype="datetime64[D]"),
        lambda: np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        lambda: np.ma.array([1, 2], mask=[True, False]),
        lambda: np.float16("nan"),
        lambda: np.complex128(1j),
        lambda: np.array(3),
        lambda: np.array([], dtype="S3"),
        lambda: np.str_("\ud800"),
        lambda: np.bytes_(b"\xff"),
        lambda: math.nan,
        lambda: {math.nan: [math.inf, -math.inf]},
        lambda: decimal.Decimal("sNaN"),
        lambda: types.MappingProxyType({"a": Hostile()}),
        mock.MagicMock,
        ctypes.c_void_p,
        lambda: re.match("a", "a"),
        lambda: ExceptionGroup("a", [ValueError(Hostile())]),
    ],
)
def test_never_raises_and_gives_one_json_text_in_utf8(make: Any) -> None:
    encoded = values.encode(make())
    json.loads(encoded.decode("utf-8"))
    values.text(make()).encode("utf-8")


CHANGING = """
import dataclasses, faulthandler, json, random, sys, threading
faulthandler.enable()
sys.setswitchinterval(1e-6)
from spanferry import values
from spanferry.redaction import Redaction
from spanferry.redacting.redactor import Redactor

@dataclasses.dataclass
class Point:
    x: object
    y: object

class Words(str):
    pass

redactor = Redactor(Redaction(presets=["all"], fields=["ssn"], patterns=["ACME-.."]))
shared = {"list": [], "dict": {}, "set": set(), "point": Point(1, []), "odd": [], "bytes": bytearray(9)}
stop = threading.Event()
chance = random.Random(5)

def change(seed):
    own = random.Random(seed)
    while not stop.is_set():
        for _ in range(50):
            n = own.randrange(1_000)
            what = own.choice([n, str(n), [n], {str(n): [n]}, Words(n), object(), b"x" * n, float(n)])
            shared["list"].append(what)
            shared["odd"].append([Words(n), {"k": what}])
            shared["dict"][own.choice([n, str(n), Words(n)])] = what
            shared["set"].add(n)
            shared["point"].y = what
            shared["bytes"].extend(b"x")
        own.choice([shared["list"], shared["odd"], shared["dict"], shared["set"]]).clear()
        del shared["bytes"][10:]
        shared["list"] = shared["list"][:300]

def encode():
    for _ in range(60):
        for value in (shared, [shared], shared["point"], shared["odd"], {"o": object, **shared}):
            json.loads(values.encode(value).decode())
            json.loads(redactor.json(values.encode(value), "k").decode())

changing = [threading.Thread(target=change, args=(seed,), daemon=True) for seed in range(3)]
encoding = [threading.Thread(target=encode) for _ in range(2)]
failed = []
threading.excepthook = lambda args: failed.append(args.exc_value)
for thread in changing + encoding:
    thread.start()
for thread in encoding:
    thread.join()
stop.set()
for thread in changing:
    thread.join()
print(len(failed), failed[:1])
"""


def test_values_that_other_threads_change_crash_nothing() -> None:
    """In a process of its own: what goes wrong here is a segmentation fault, not an exception."""
    done = subprocess.run(
        [sys.executable, "-c", CHANGING], capture_output=True, text=True, timeout=110, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "0 []"), done.stderr
