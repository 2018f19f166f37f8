"""A picture in SVG, readable on light and on dark pages. The standard library is enough for it."""

import itertools
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

__all__ = ["PALETTE", "LogScale", "Picture", "spread_out", "write_beside"]

PALETTE: dict[str, tuple[str, str]] = {
    "back": ("#ffffff", "#0d1117"),
    "text": ("#1f2328", "#e6edf3"),
    "muted": ("#59636e", "#9198a1"),
    "grid": ("#dfe4ea", "#262d36"),
    "blue": ("#0b62c4", "#58a6ff"),
    "teal": ("#0f7b6c", "#2fc7ae"),
    "sage": ("#6b9a3a", "#9bcb63"),
    "orange": ("#c2620a", "#f0a050"),
    "red": ("#c0312b", "#ff7b72"),
    "brick": ("#8a1f1a", "#ffa198"),
    "purple": ("#7a4bc2", "#bc8cff"),
    "brown": ("#8a6d3b", "#d2b06f"),
    "grey": ("#6e7781", "#a1abb5"),
}
"""Names of colours: on light pages, on dark ones."""

_FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
_CAPTION_CHARS = 148
_CAPTION_LINE = 15


class LogScale:
    """Maps values to pixels by their logarithm; `first` need not be less than `last`."""

    def __init__(self, values: Iterable[float], first: float, last: float) -> None:
        found = [value for value in values if value > 0]
        if not found:
            raise ValueError("a logarithmic axis needs a positive value")
        self.low = _step_below(min(found))
        self.high = _step_above(max(*found, self.low * 2))
        self._first, self._span = first, last - first

    def __call__(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self._first + share * self._span

    def ticks(self) -> list[float]:
        """The powers of ten inside."""
        low, high = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        return [10.0**power for power in range(low, high + 1)]


def _step_below(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return max(step * power for step in (1, 2, 5) if step * power <= value * 1.0001)


def _step_above(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return min(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.9999)


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """Labels' places, moved as little as needed to be `gap` apart; same order as given."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    for _ in range(100):
        apart = True
        for before, after in itertools.pairwise(order):
            overlap = gap - (moved[after] - moved[before])
            if overlap > 1e-6:
                moved[before] -= overlap / 2
                moved[after] += overlap / 2
                apart = False
        if apart:
            break
    return moved


class Picture:
    """Collects shapes, and is written at the end. Coordinates are pixels from the top left."""

    def __init__(self, width: int, title: str, subtitle: str) -> None:
        self._width = width
        self._title = title
        self._parts: list[str] = []
        self.text(20, 30, title, size=17, weight=600)
        self.text(20, 50, subtitle, colour="muted", size=12)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        colour: str = "text",
        size: int = 12,
        anchor: str = "start",
        weight: int = 400,
        turn: bool = False,
    ) -> None:
        """One line of text; y is its baseline. `turn` writes it upwards."""
        turned = f' transform="rotate(-90 {_px(x)} {_px(y)})"' if turn else ""
        self._parts.append(
            f'<text class="f-{colour}" x="{_px(x)}" y="{_px(y)}" font-size="{size}" '
            f'font-weight="{weight}" text-anchor="{anchor}"{turned}>{escape(text)}</text>'
        )

    def line(
        self, points: Sequence[tuple[float, float]], colour: str, width: float = 1.0, *, opacity: float = 1.0
    ) -> None:  # fmt: skip
        """Straight from point to point."""
        path = " ".join(f"{_px(x)},{_px(y)}" for x, y in points)
        self._parts.append(
            f'<polyline class="s-{colour}" points="{path}" fill="none" stroke-width="{width:g}" '
            f'stroke-linejoin="round" stroke-linecap="round" opacity="{opacity:g}"/>'
        )

    def dot(self, x: float, y: float, colour: str, *, hollow: bool = False, note: str = "") -> None:
        """A measured value; `note` is shown where the mouse rests."""
        look = f"f-back s-{colour}" if hollow else f"f-{colour} s-{colour}"
        self._parts.append(
            f'<circle class="{look}" cx="{_px(x)}" cy="{_px(y)}" r="4" stroke-width="1.8">'
            f"<title>{escape(note)}</title></circle>"
        )

    def written(self, height: float, caption: str) -> str:
        """The file, with the caption below what was drawn down to `height`."""
        lines = textwrap.wrap(caption, _CAPTION_CHARS)
        for number, line in enumerate(lines):
            self.text(20, height + 14 + number * _CAPTION_LINE, line, colour="muted", size=11)
        total = int(height + 14 + len(lines) * _CAPTION_LINE + 6)
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self._width} {total}" '
            f'width="{self._width}" height="{total}" role="img" '
            f'aria-label={quoteattr(self._title)} font-family="{_FONT}">'
        )
        back = f'<rect class="f-back" width="{self._width}" height="{total}" rx="8"/>'
        title = f"<title>{escape(self._title)}</title><desc>{escape(caption)}</desc>"
        return "\n".join([head, title, _style(), back, *self._parts, "</svg>"]) + "\n"


def write_beside(report: Path, pictures: Mapping[str, str]) -> list[Path]:
    """Write pictures as `<report>-<name>.svg`; the files written."""
    written: list[Path] = []
    for name, text in pictures.items():
        target = report.with_name(f"{report.stem}-{name}.svg")
        target.write_text(text)
        written.append(target)
    return written


def _style() -> str:
    light, dark = (
        "".join(
            f".f-{name}{{fill:{both[page]}}}.s-{name}{{stroke:{both[page]}}}"
            for name, both in PALETTE.items()
        )
        for page in (0, 1)
    )
    return f"<style>{light}@media (prefers-color-scheme:dark){{{dark}}}</style>"


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
