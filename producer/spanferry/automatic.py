"""Enabled by SPANFERRY_ENABLED=true and the other variables, by nobody's call.

The app may still call `enable()`, with other options: until the first trace nothing has begun that
would have to be stopped for it.
"""

import os
import sys

from spanferry import client, outlet
from spanferry.log import say_once
from spanferry.settings import ConfigurationError, variable
from spanferry_start import begin, switch

__all__ = ["enable_if_told", "insist"]

_problem: str | None = None
"""Why it could not be enabled."""


def enable_if_told() -> None:
    """At the end of spanferry's import. Never raises.

    Where only the broker is missing nothing is said yet: the app may be about to call `enable()`. The
    worker and the commands share the apps' variables, and are none themselves.
    """
    global _problem  # noqa: PLW0603  the process has one
    if not switch(os.environ) or "spanferry_worker" in sys.modules:
        return
    try:
        begin()
        client.enable_late()
    except ConfigurationError as error:
        _problem = str(error)
        if os.environ.get(variable("bootstrap_servers"), "").strip():
            insist()
    except Exception as error:  # noqa: BLE001  the app must not see our troubles
        _problem = repr(error)
        insist()


def insist() -> None:
    """Say once why spanferry is not enabled, where it should be. Never raises."""
    if _problem is not None and outlet.current() is None:
        say_once(
            "automatic",
            "SPANFERRY_ENABLED=%s, but spanferry stays off, and nothing is traced by it: %s",
            os.environ.get("SPANFERRY_ENABLED"),
            _problem,
        )
