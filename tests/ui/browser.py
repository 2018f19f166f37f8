"""A real Chromium without a window, driven by its own protocol."""

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.sync.client import connect

__all__ = ["Browser", "chromium"]

WIDTH, HEIGHT = 1360, 850
START_S = 30.0
WAIT_S = 60.0
STILL_S = 1.0
"""A page that has not changed for so long is done."""
_OPTIONS = (
    "--headless=new", "--remote-debugging-port=0", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--lang=en-US",
    "--force-device-scale-factor=1", "--force-color-profile=srgb",
)  # fmt: skip


def chromium() -> str | None:
    """Where it is; None if it is not installed."""
    return shutil.which("chromium") or shutil.which("google-chrome")


class Browser:
    """One page of it.

    `now_ms`: what its clock says at every look, so that "2 minutes ago" stays that. `remembered`: what pages
    find in their local storage.
    """

    def __init__(self, now_ms: int, remembered: Mapping[str, str]) -> None:
        self._now_ms, self._remembered = now_ms, remembered
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        program = chromium()
        if program is None:
            raise RuntimeError("no Chromium here: install your system's package chromium")
        self._folder = Path(tempfile.mkdtemp(prefix="spanferry-chromium-"))
        size = f"--window-size={WIDTH},{HEIGHT}"
        self._process = subprocess.Popen(
            [program, *_OPTIONS, size, f"--user-data-dir={self._folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._socket = connect(self._address(), max_size=None)
            self._attach()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()
        self._end()

    def open(self, url: str, *, until: str) -> None:
        """Go there; returns when the page shows this text, and has come to rest.

        Raises TimeoutError with what it shows.
        """
        self._ask("Page.navigate", url="about:blank")
        self._ask("Page.navigate", url=url)
        self.wait(until)

    def wait(self, until: str) -> None:
        """As open() does."""
        deadline, since, before = time.monotonic() + WAIT_S, time.monotonic(), ""
        while time.monotonic() < deadline:
            found = self.text()
            if found != before:
                before, since = found, time.monotonic()
            elif until in found and time.monotonic() - since > STILL_S:
                return
            time.sleep(0.1)
        raise TimeoutError(f"the page never shows {until!r}, but: {before[:2000]}")

    def text(self) -> str:
        """What can be read on the page."""
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def click(self, text: str) -> None:
        """Press the first button, tab or link that shows exactly this text."""
        found = self.evaluate(_FIND % json.dumps(text))
        if found is None:
            raise LookupError(f"nothing to press that shows {text!r}: {self.text()[:2000]}")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self._ask(
                "Input.dispatchMouseEvent", type=kind, x=found[0], y=found[1], button="left", clickCount=1
            )  # fmt: skip
        self._ask("Input.dispatchMouseEvent", type="mouseMoved", x=2, y=HEIGHT - 2)

    def evaluate(self, script: str) -> Any:
        """The value of an expression."""
        answer = self._ask("Runtime.evaluate", expression=script, returnByValue=True)
        return answer["result"].get("value")

    def screenshot(self) -> bytes:
        """PNG of what is in view."""
        return base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"])

    def _address(self) -> str:
        told = self._folder / "DevToolsActivePort"
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if told.exists() and len(lines := told.read_text().split()) == 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            time.sleep(0.05)
        raise TimeoutError("Chromium does not start")

    def _attach(self) -> None:
        self._session = ""
        targets = self._ask("Target.getTargets")["targetInfos"]
        page = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = self._ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        self._ask("Page.enable")
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self._ask("Emulation.setTimezoneOverride", timezoneId="UTC")
        self._ask(
            "Page.addScriptToEvaluateOnNewDocument",
            source=_BEFORE % (self._now_ms, json.dumps(self._remembered)),
        )

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(timeout=WAIT_S))
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


_BEFORE = """{
  const now = %d, Real = Date;
  window.Date = class extends Real {
    constructor(...given) { given.length ? super(...given) : super(now); }
    static now() { return now; }
  };
  if (location.protocol.startsWith('http')) Object.entries(%s).forEach(one => localStorage.setItem(...one));
}"""
_FIND = """(() => {
  const wanted = %s;
  const kinds = 'button, a, [role=tab], [role=button], [role=treeitem], span, div';
  const all = [...document.querySelectorAll(kinds)];
  const hit = all.find(e => e.innerText && e.innerText.trim() === wanted && e.getClientRects().length);
  if (!hit) return null;
  const r = hit.getBoundingClientRect();
  return [r.x + Math.min(r.width / 2, 60), r.y + r.height / 2];
})()"""
