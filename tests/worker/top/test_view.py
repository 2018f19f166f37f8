"""What is on the screen, in any width, with and without colour."""

import io
import json
import re

import pytest
from rich.console import Console

from spanferry_worker.top.account import Account
from spanferry_worker.top.report import as_json
from spanferry_worker.top.text import (
    bytes_text,
    count_text,
    rate_text,
    seconds_text,
    sparkline,
)
from spanferry_worker.top.view import picture
from tests.worker.top.pages import account, counts


def screen(looked: Account, width: int = 150, height: int = 40, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=width, height=height, force_terminal=False, record=True)
    console.print(picture(looked, title="spanferry top", note="12:00:00", console=console))
    return console.export_text()


def line(text: str, start: str) -> str:
    [found] = [one for one in text.splitlines() if one.startswith(start)]
    return found


@pytest.fixture
def busy() -> Account:
    return account(
        {"w:1#0": counts(100, lag=5), "w:1#1": counts(200), "w:2": None},
        {"w:1#0": counts(150, lag=50, dead=3), "w:1#1": counts(220), "w:2": None},
    )


def test_totals_and_processes(busy: Account):
    text = screen(busy)
    assert line(text, "records/s").split()[1] == "70"
    assert line(text, "stored/s").split()[1] == "70"
    assert "100, 0.1 MB, 5.0 s" in line(text, "lag")
    assert "24 MB of 536 MB" in line(text, "held")
    assert "full 75.4%   skeleton 24.6%" in line(text, "sampling")
    first, second, third = (line(text, name) for name in ("w:1#0 ", "w:1#1 ", "w:2 "))
    assert first.split()[1:3] == ["ready", "50"]
    assert second.split()[1:3] == ["ready", "20"]
    assert third.split() == ["w:2", "no", "answer"]
    assert "w:2: nothing listens there" in text


def test_errors_are_said_with_their_reasons_and_whether_they_go_on(busy: Account):
    assert "dead letters (refused 3) 3 now" in line(screen(busy), "errors")
    old = account({"a": counts(1, dead=3)}, {"a": counts(1, dead=3)})
    assert line(screen(old), "errors").split("errors")[1].strip() == "dead letters (refused 3) 3"
    assert line(screen(account({"a": counts(1)})), "errors").split() == ["errors", "none"]


@pytest.mark.parametrize("width", [20, 34, 60, 80, 100, 132, 250])
def test_no_line_is_wider_than_the_terminal(busy: Account, width: int):
    text = screen(busy, width)
    assert max(len(one.rstrip()) for one in text.splitlines()) <= width
    assert "records/s" in text


def test_the_narrower_the_fewer_columns(busy: Account):
    heads = {width: line(screen(busy, width), "PROCESS").split() for width in (36, 60, 80, 150)}
    assert heads[36] == ["PROCESS", "STATE", "STORED/S"]
    assert heads[60] == ["PROCESS", "STATE", "RECORDS/S", "STORED/S", "LAG"]
    assert set(heads[36]) < set(heads[60]) < set(heads[80]) < set(heads[150])
    assert {"DEAD", "AGAIN", "CPU"} < set(heads[150])


def test_more_processes_than_lines(busy: Account):
    many = account({f"w:1#{number}": counts(1) for number in range(40)})
    text = screen(many, height=24)
    assert len(text.rstrip().splitlines()) <= 24
    shown = len(re.findall(r"^w:1#\d+ ", text, re.MULTILINE))
    assert f"... and {40 - shown} more" in text


def test_ascii_terminals_get_ascii(busy: Account):
    assert screen(busy, encoding="ascii").isascii()
    assert "█" in screen(busy)


def test_without_colours_the_words_are_the_same(busy: Account):
    def drawn(*, no_color: bool) -> str:
        file = io.StringIO()
        console = Console(
            file=file,
            width=120,
            force_terminal=True,
            no_color=no_color,
            color_system="truecolor",
            highlight=False,
        )
        console.print(picture(busy, title="spanferry top", note="", console=console))
        return file.getvalue()

    colour = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")
    escape = re.compile(r"\x1b\[[0-9;]*m")
    plain, coloured = drawn(no_color=True), drawn(no_color=False)
    assert colour.search(coloured)
    assert not colour.search(plain)
    assert escape.sub("", plain) == escape.sub("", coloured)


def test_nothing_was_seen_yet():
    text = screen(account({"a:1": None}))
    assert "nothing decided yet" in text
    assert "a:1: nothing listens there" in text


def test_json(busy: Account):
    found = json.loads(as_json(busy, 1_700_000_000_000))
    assert found["time_ms"] == 1_700_000_000_000
    assert found["total"]["per_s"] == {
        "records": 70,
        "bytes": 70_000,
        "traces": 70,
        "stored": 70,
    }
    assert found["total"]["now"]["lag_records"] == 100
    assert [one["state"] for one in found["processes"]] == ["ready", "ready", "no answer"]
    assert found["processes"][2]["problem"] == "nothing listens there"
    assert found["processes"][0]["since_start"]["dead:refused"] == 3


def test_curves():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 0], 8) == "▁▁"
    assert sparkline([], 8) == sparkline([1], 0) == ""
    assert sparkline([1, 9, 0, 0, 0, 0], 3) == "█▁▁"
    assert sparkline([9, 0, 0, 0, 0], 3) == "█▁▁"
    assert len(sparkline(list(range(1000)), 50)) == 50
    assert sparkline([0, 7], 8, plain=True) == "_#"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (9999, "9,999"), (10_000, "10.0k"), (999_949, "999.9k"), (999_950, "1.0M")],
)
def test_counts(value: float, text: str):
    assert count_text(value) == text


def test_other_numbers():
    assert [rate_text(one) for one in (None, 0, 0.26, 9.94, 12.3)] == ["-", "0", "0.3", "9.9", "12"]
    assert [bytes_text(one) for one in (0, 9_949_999, 12e6, 1.2e10)] == [
        "0.0 MB",
        "9.9 MB",
        "12 MB",
        "12.0 GB",
    ]
    assert [seconds_text(one) for one in (0.01, 4.23, 59.6, 300, 9000)] == [
        "0 s",
        "4.2 s",
        "60 s",
        "5 min",
        "2.5 h",
    ]
