"""Numbers and curves as few characters."""

from collections.abc import Sequence
from typing import Final

__all__ = ["bytes_text", "count_text", "rate_text", "seconds_text", "sparkline"]

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_ASCII: Final = "_.-~=+*#"


def count_text(value: float) -> str:
    """A whole number: 9,999 at most, else as 12.3k, 1.2M."""
    if value < 10_000:
        return f"{value:,.0f}"
    return f"{value / 1e3:.1f}k" if value < 999_950 else f"{value / 1e6:.1f}M"


def rate_text(value: float | None) -> str:
    """Something a second: with a decimal where it is small; `-` where it is not known yet."""
    if value is None:
        return "-"
    return f"{value:.1f}" if 0 < value < 10 else count_text(value)


def bytes_text(value: float) -> str:
    """In megabytes (10^6); gigabytes from 10,000 MB on."""
    if value < 9_950_000:
        return f"{value / 1e6:.1f} MB"
    return f"{value / 1e6:,.0f} MB" if value < 1e10 else f"{value / 1e9:.1f} GB"


def seconds_text(value: float) -> str:
    """`0 s`, `4.2 s`, `3 min`, `2.5 h`."""
    if value < 0.05:
        return "0 s"
    if value < 120:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def sparkline(values: Sequence[float], width: int, *, plain: bool = False) -> str:
    """At most `width` characters, the newest value last; the highest is a whole block, 0 the lowest.

    More values than characters are put together, the highest of each part counts. `plain`: ASCII.
    """
    marks = _ASCII if plain else _BLOCKS
    if not values or width < 1:
        return ""
    step = -(-len(values) // width)
    # Parts are counted from the newest value back, so that a peak keeps its place in its part.
    parts = [max(values[max(0, end - step) : end]) for end in range(len(values), 0, -step)][::-1]
    top = max(parts)
    if top <= 0:
        return marks[0] * len(parts)
    return "".join(marks[min(7, max(0, round(value / top * 7)))] for value in parts)
