"""The drivers' benchmark: every way that it measures writes the same."""

import contextlib
from collections.abc import Mapping
from typing import Any

import psycopg
import pytest

from benchmarks.stores_drivers import DRIVER_WAYS
from benchmarks.stores_raw import RAW
from tests.services.postgres import PostgresServer

COLUMNS = ("at", "number", "share", "short", "long")
ROWS = [
    (1, 2**31 - 1, 0.1, "a", "b"),
    (-(2**63), -(2**31), -1e-300, "tab\tline\nreturn\rback\\slash", "\\N"),
    (2**63 - 1, 0, 1e300, "", '"quoted" \\"twice\\" \\\\t'),
    (0, None, None, None, "\b\v\f\x01\x7f\u00e9\u20ac\U0001f600"),
    (3, 4, 5.0, "N", "x" * 300_000),
]
ALL: Mapping[str, Any] = {**DRIVER_WAYS, "raw": RAW["PostgreSQL"]}


@pytest.fixture
def uri(postgres: PostgresServer) -> str:
    """Of a database with two tables, one of which wants the other's rows first."""
    made = postgres.new_database()
    with psycopg.connect(made.replace("+psycopg", "")) as raw:
        raw.execute(
            "CREATE TABLE first (at bigint PRIMARY KEY, number integer, share double precision, "
            "short varchar(50), long text)"
        )
        raw.execute("CREATE TABLE second (of bigint REFERENCES first, text text)")
    return made


def stored(uri: str) -> tuple[list[Any], list[Any]]:
    with psycopg.connect(uri.replace("+psycopg", "")) as raw:
        names = ", ".join(COLUMNS)
        first = raw.execute(f"SELECT {names} FROM first ORDER BY at".encode()).fetchall()
        return first, raw.execute("SELECT of, text FROM second ORDER BY of").fetchall()


@pytest.mark.parametrize("way", ALL)
def test_every_way_writes_the_same_a_transaction_a_batch(way: str, uri: str) -> None:
    second = [(row[0], row[4]) for row in ROWS]
    batches = [
        [(("first", COLUMNS), [row]), (("second", ("of", "text")), [other])]
        for row, other in zip(ROWS, second, strict=True)
    ]
    with contextlib.ExitStack() as stack:
        ALL[way](uri, batches, stack)()
    assert stored(uri) == (sorted(ROWS), sorted(second))
    wrong = [
        (("first", COLUMNS), [(7, *ROWS[0][1:])]),
        (("second", ("of", "text")), [(8, "of nothing")]),
    ]
    with contextlib.ExitStack() as stack, pytest.raises(Exception, match="foreign key"):
        ALL[way](uri, [wrong], stack)()
    assert stored(uri) == (sorted(ROWS), sorted(second))


def test_a_mark_of_our_own_in_a_value_is_refused(uri: str) -> None:
    batch = [(("first", COLUMNS), [(1, 2, 3.0, "a\0,b", "")])]
    with contextlib.ExitStack() as stack, pytest.raises(ValueError, match="NUL"):
        DRIVER_WAYS["psycopg, text at once"](uri, [batch], stack)()
    assert stored(uri) == ([], [])
