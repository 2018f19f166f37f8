"""What is looked at in MLflow's UI, and how to get there."""

from collections.abc import Callable
from typing import Final, NamedTuple

from tests.ui.browser import Browser
from tests.ui.programs import ERROR, FAILED, QUESTION, SESSION

__all__ = ["REMEMBERED", "VIEWS", "View"]

_TRACES: Final = "/#/experiments/1/traces"
REMEMBERED: Final = {
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.detectIssues.guidanceShown_v1": "true",
}
"""What the UI keeps in the browser once its greetings are closed."""


_SHORTEN: Final = r"""
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode;
  node.nodeValue = node.nodeValue.replace(/File "[^"]*(\/site-packages|$)/g, 'File "...');
}
"""
"""Where Python lies on this machine is nobody's business."""


class View(NamedTuple):
    """One picture."""

    name: str
    title: str
    path: str
    """`{second}` and `{fails}` are traces' ids."""
    until: str
    steps: Callable[[Browser], None] = lambda _: None


def _tool(browser: Browser) -> None:
    browser.click("track_parcel")
    browser.wait("JD0140")


def _assessments(browser: Browser) -> None:
    browser.click("Assess\n3")
    browser.wait("Expectations (1)")


def _error(browser: Browser) -> None:
    browser.click("cancel_order")
    browser.wait(ERROR)
    browser.evaluate(_SHORTEN)


_SECOND: Final = _TRACES + "?selectedEvaluationId={second}"
VIEWS: Final = (
    View("list", "The list of traces", _TRACES, QUESTION),
    View("tree", "A trace: tree, inputs and outputs", _SECOND, "track_parcel"),
    View("tool", "A tool's span", _SECOND, "track_parcel", _tool),
    View("assessments", "Assessments", _SECOND, "track_parcel", _assessments),
    View("error", "An exception", _TRACES + "?selectedEvaluationId={fails}", FAILED, _error),
    View("sessions", "The list by session", _TRACES + "?groupBy=session", SESSION),
    View("session", "A session", f"/#/experiments/1/chat-sessions/{SESSION}", QUESTION),
)
