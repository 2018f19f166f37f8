"""Pictures of MLflow's UI on the same traces by each way: `python -m tests.ui [FOLDER]`.

Writes docs/images/ui-VIEW-WAY.png, or into FOLDER, and says of each picture whether it shows what the native
one shows, to the letter and to the pixel. In about four minutes. Exit status 1 where a text differs.
"""

import io
import logging
import re
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

from tests.ui.browser import Browser
from tests.ui.stored import WAYS, all_servers
from tests.ui.views import REMEMBERED, VIEWS, View

IMAGES = Path(__file__).parents[2] / "docs" / "images"
_LATER_MS = 120_000
_COLOURS = 48
"""As many as a page of text needs."""

_BRIEFLY = ("postgres", "mariadb", "archive")
_BRIEF_VIEWS = ("list", "tree")
"""All views are compared of these ways, too, but no pictures of others are kept."""

Shots = dict[str, tuple[str, bytes]]
"""Text and PNG by view."""


def take(folder: Path) -> dict[str, Shots]:
    """Of every view, by way."""
    with all_servers(folder) as (servers, recorded):
        ids = {one.program: f"tr-{one.trace_id.hex()}" for one in recorded}
        now_ms = max(span.end_ns for one in recorded for span in one.spans) // 1_000_000 + _LATER_MS
        with Browser(now_ms, REMEMBERED) as browser:
            return {
                way: {view.name: _shot(browser, servers[way].uri, view, ids) for view in VIEWS}
                for way in WAYS
            }


def _shot(browser: Browser, address: str, view: View, ids: dict[str, str]) -> tuple[str, bytes]:
    browser.open(address + view.path.format(**ids), until=view.until)
    view.steps(browser)
    return browser.text(), browser.screenshot()


def _pixels(one: bytes, other: bytes) -> str:
    """Where two pictures differ."""
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in (one, other)]
    if images[0].size != images[1].size:
        return f"sizes {images[0].size} and {images[1].size}"
    box = ImageChops.difference(*images).getbbox()
    return "" if box is None else f"pixels within {box}"


def _differences(native: Shots, own: Shots) -> dict[str, tuple[list[str], str]]:
    """By view: lines of text that only one of both has, and where the pixels differ."""
    found: dict[str, tuple[list[str], str]] = {}
    for name, (text, png) in own.items():
        lines, theirs = text.splitlines(), native[name][0].splitlines()
        apart = (
            [] if lines == theirs else sorted(set(lines) ^ set(theirs)) or ["the order of lines"]
        )
        found[name] = apart, _pixels(native[name][1], png)
    return found


def main(arguments: list[str]) -> int:
    logging.basicConfig(level=logging.WARNING)
    target = Path(arguments[0]) if arguments else IMAGES
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="spanferry-ui-") as folder:
        shots = take(Path(folder))
    for way, own in shots.items():
        for name, (_, png) in own.items():
            if way in _BRIEFLY and name not in _BRIEF_VIEWS:
                continue
            small = (
                Image.open(io.BytesIO(png))
                .convert("RGB")
                .quantize(_COLOURS, dither=Image.Dither.NONE)
            )
            small.save(target / f"ui-{name}-{way}.png", optimize=True)
    differing = 0
    for way in WAYS[1:]:
        for name, (lines, where) in _differences(shots["native"], shots[way]).items():
            differing += bool(lines)
            said = "; ".join(
                [*(re.sub(r"\s+", " ", line) for line in lines), where] if where else lines
            )
            print(f"{way:8} {name:12} {said or 'the same, to the pixel'}", flush=True)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
