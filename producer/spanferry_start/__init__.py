"""Switching spanferry on in a process whose code does not ask for it.

`begin` runs while the interpreter starts, in every Python process that SPANFERRY_ENABLED=true
reaches, pip's too: so nothing is imported here that is not there already, spanferry least of all. It
only has a look at what the app imports. The first of MLflow, spanferry and the libraries of
SPANFERRY_AUTOLOG brings the rest; a process that imports none of them could not trace anyway.
"""

from __future__ import annotations

import os
import sys

from spanferry_start import watch
from spanferry_start.libraries import AUTOLOG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BY_RUN", "OFF", "begin", "switch"]

BY_RUN = "SPANFERRY_STARTED_BY_RUN"
"""Set by `spanferry run` for the first interpreter that it leads to, which takes it away."""

ON = frozenset({"true", "1", "on", "yes"})
OFF = frozenset({"false", "0", "off", "no"})


def switch(environment: Mapping[str, str]) -> bool | None:
    """What SPANFERRY_ENABLED says; None where that is nothing, or neither yes nor no."""
    said = environment.get("SPANFERRY_ENABLED", "").strip().lower()
    return True if said in ON else False if said in OFF else None


def begin() -> None:
    """Have spanferry enabled as soon as the process imports what traces. Never raises."""
    os.environ.pop(BY_RUN, None)
    if switch(os.environ):
        watch.after_import("mlflow", _arrived)
        for flavor in os.environ.get("SPANFERRY_AUTOLOG", "").split(","):
            for library in AUTOLOG.get(flavor.strip(), ()):
                watch.after_import(library, _arrived)


def _arrived() -> None:
    if "spanferry_worker" in sys.modules:  # it shares the apps' variables, and is none
        return
    try:
        from spanferry import automatic  # noqa: PLC0415  the first time that it is needed
    except Exception as error:  # noqa: BLE001  the app must not see our troubles
        sys.stderr.write(f"spanferry is not enabled, its import fails: {error!r}\n")
    else:
        automatic.insist()
