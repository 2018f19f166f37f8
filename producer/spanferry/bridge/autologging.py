"""MLflow's autologging of the libraries that `autolog` names, once the app imports one of them."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from spanferry.log import say_once
from spanferry_start import watch
from spanferry_start.libraries import AUTOLOG

__all__ = ["autolog", "switch_off"]

_UTILS: Final = "mlflow.utils.autologging_utils"

_actions: Final[dict[str, Callable[[], None]]] = {}
"""By flavor, for what is switched on."""
_begun: Final[set[str]] = set()
"""Flavors that log now because of us, and not of the app."""
_ours: Final[set[str]] = set()
"""Flavors that ever did: what MLflow knows of their options is what we have said."""


def autolog(flavors: Sequence[str]) -> None:
    """Have MLflow log them, now or when the app imports their library. Never raises."""
    for flavor in flavors:
        action = _actions.setdefault(flavor, partial(_begin, flavor))
        for library in AUTOLOG[flavor]:
            watch.after_import(library, action)


def switch_off() -> None:
    """Take it back: without us MLflow would log to its tracking server. Never raises."""
    for flavor, action in _actions.items():
        for library in AUTOLOG[flavor]:
            watch.forget(library, action)
        if flavor in _begun:
            _attempt(flavor, disable=True)
    _actions.clear()
    _begun.clear()


def _begin(flavor: str) -> None:
    if flavor not in _begun and flavor in _actions:
        _attempt(flavor, disable=False)


def _attempt(flavor: str, *, disable: bool) -> None:
    try:
        mlflows = importlib.import_module(f"mlflow.{flavor}").autolog
        if disable:
            mlflows(disable=True)
        elif flavor in _ours or not _is_the_apps_choice(mlflows):
            _begun.add(flavor)
            _ours.add(flavor)
            mlflows()
    except Exception as error:  # noqa: BLE001  the app must not see our troubles
        say_once(f"autolog {flavor}", "mlflow.%s.autolog() fails: %r", flavor, error)


def _is_the_apps_choice(mlflows: Any) -> bool:
    """Whether the app has called it before us, or does so right now: its options hold."""
    known: Mapping[str, Any] = getattr(sys.modules.get(_UTILS), "AUTOLOGGING_INTEGRATIONS", {})
    return bool(known.get(mlflows.integration_name))
