"""The plots are SVG with the right numbers in the right places; the page embeds them."""

import itertools
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from benchmarks.cases import MAIN, SERIES
from benchmarks.document import PAGE, document
from benchmarks.plots import pictures, write
from benchmarks.report import Report
from benchmarks.svg import PALETTE, LogScale, Picture, spread_out
from tests.benchmarks.made import report

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "benchmarks" / "results" / "overhead.json"
NS = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in ET.fromstring(svg).iter(f"{NS}text")]


def test_a_scale_is_logarithmic_and_covers_its_values() -> None:
    scale = LogScale([0.03, 40], 100, 500)

    assert (scale.low, scale.high) == (0.02, 50)
    assert (scale(0.02), scale(50)) == (100, pytest.approx(500))
    assert scale(1) - scale(0.1) == pytest.approx(scale(10) - scale(1))
    assert scale.ticks() == [0.1, 1, 10]


def test_a_scale_of_one_value_has_an_extent() -> None:
    scale = LogScale([10.0], 0, 1)

    assert scale.low <= 10 < scale.high


def test_a_scale_needs_something_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        LogScale([0.0], 0, 1)


def test_labels_are_moved_apart_in_their_order() -> None:
    moved = spread_out([10, 12, 100, 11], 15)

    assert moved[2] == 100
    ordered = [moved[0], moved[3], moved[1]]
    assert ordered == sorted(ordered)
    assert all(b - a >= 15 - 1e-3 for a, b in itertools.pairwise(ordered))


def test_what_is_written_is_escaped_and_has_both_pages() -> None:
    picture = Picture(400, 'A & "B"', "<c>")
    picture.dot(1, 2, "red", note="1 < 2")

    svg = picture.written(100, "at the end & below")

    root = ET.fromstring(svg)
    assert root.get("aria-label") == 'A & "B"'
    assert "<c>" in texts(svg)
    assert "at the end & below" in texts(svg)
    style = root.find(f"{NS}style")
    assert style is not None
    assert style.text is not None
    light, dark = style.text.split("@media (prefers-color-scheme:dark)")
    for name, (on_light, on_dark) in PALETTE.items():
        assert f".f-{name}{{fill:{on_light}}}" in light
        assert f".f-{name}{{fill:{on_dark}}}" in dark


@pytest.mark.parametrize(("page", "ink_least"), [(0, 4.5), (1, 4.5)])
def test_text_stands_out_on_either_page(page: int, ink_least: float) -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    back = luminance(PALETTE["back"][page])
    for name, both in PALETTE.items():
        if name not in {"back", "grid", "sage"}:
            inks = sorted((luminance(both[page]), back))
            assert (inks[1] + 0.05) / (inks[0] + 0.05) >= ink_least - 0.5, name


def test_the_main_picture_has_every_tier_in_every_rhythm() -> None:
    svg = pictures(report())["main"]
    shown = texts(svg)

    assert shown.count("MLflow, async export to a stub") == shown.count("spanferry API") == 3
    # p50 and p99 of spanferry and of MLflow, as text and where the mouse rests
    for value in ("0.100", "1.10", "7.00", "8.00"):
        assert shown.count(value) == 3, value
    assert svg.count("<title>spanferry API: p99 1.10 ms</title>") == 3
    assert {"100 traces a second", "1,000 traces a second", "trace after trace"} <= set(shown)
    assert "1 ms" in shown
    assert any("A <CPU> & more" in line for line in shown)


def test_dots_stand_where_their_values_are() -> None:
    root = ET.fromstring(pictures(report())["main"])
    at = {
        (node.findtext(f"{NS}title") or ""): float(node.get("cx") or 0)
        for node in root.iter(f"{NS}circle")
    }

    ours, theirs = (
        at["spanferry API: p50 0.100 ms"],
        at["MLflow, async export to a stub: p50 7.00 ms"],
    )
    ticks = {
        node.text: float(node.get("x") or 0)
        for node in root.iter(f"{NS}text")
        if re.fullmatch(r"[\d.]+ ms", node.text or "")
    }
    assert ours == pytest.approx(ticks["0.1 ms"], abs=0.2)
    assert ticks["1 ms"] < theirs < ticks["10 ms"]


@pytest.mark.parametrize("name", ["size", "spans"])
def test_a_series_has_its_points_axes_and_last_values(name: str) -> None:
    (series,) = (one for one in SERIES if one.name == name)
    made = report()
    svg = pictures(made)[name]
    shown = texts(svg)

    assert series.axis in shown
    assert all(point.label in shown for point in series.points)
    for tier, label in (
        ("spanferry", "spanferry API"),
        ("mlflow", "MLflow, async export to a stub"),
    ):
        last = made.row(series.points[-1].case.name, tier)
        assert last is not None
        ends = [text for text in shown if text.endswith(f"  {label}")]
        assert [float(text.split()[0].replace(",", "")) for text in ends] == [last.p50.median]
    # a tier that was not measured everywhere has no line
    assert not any(text.endswith("Langfuse") for text in shown)
    assert svg.count("<circle") == 5 * len(series.points)


def test_a_run_of_the_main_table_draws_the_main_picture_only(tmp_path: Path) -> None:
    names = {case.name for case in MAIN}
    made = report(rows=[row for row in report().rows if row.case in names])
    (tmp_path / "last.tmp.json").write_bytes(msgspec.json.encode(made))

    assert [path.name for path in write(tmp_path / "last.tmp.json")] == ["last.tmp-main.svg"]
    assert pictures(report(rows=[])) == {}


def test_the_page_has_every_part() -> None:
    page = document(report(), PUBLISHED)

    for name in ("main", "size", "spans"):
        assert f"(../benchmarks/results/overhead-{name}.svg)" in page
    for series in SERIES:
        assert f"## {series.title}\n" in page
    assert "make bench" in page
    assert "do not quote" not in page
    assert "do not quote" in document(report(run="quick"), PUBLISHED)


def test_the_published_page_and_pictures_are_current() -> None:
    published = msgspec.json.decode(PUBLISHED.read_bytes(), type=Report)

    remedy = "run: python -m benchmarks.{} benchmarks/results/overhead.json"
    assert PAGE.read_text() == document(published, PUBLISHED), remedy.format("document")
    for name, svg in pictures(published).items():
        path = PUBLISHED.with_name(f"overhead-{name}.svg")
        assert path.read_text() == svg, remedy.format("plots")
