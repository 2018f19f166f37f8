"""When to build the bridge: at once where the app has MLflow, else as soon as it imports it."""

import importlib
import sys
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from spanferry.bridge import autologging
from spanferry.log import say_once
from spanferry_start import watch

__all__ = ["hand_over_what_has_ended", "switch_off", "switch_on"]

_MLFLOW: Final = "mlflow"
_INSTALLING: Final = "spanferry.bridge.installing"


class _Installing(Protocol):
    """The module that knows MLflow."""

    def install(self, *, accelerate: bool) -> None: ...
    def uninstall(self) -> None: ...
    def hand_over_what_has_ended(self) -> None: ...


_wanted: bool | None = None
"""What `switch_on` asked for (`accelerate`); None while the bridge is switched off."""


def switch_on(*, accelerate: bool) -> None:
    """Have MLflow's API go through spanferry, now or when MLflow is imported. Never raises."""
    global _wanted  # noqa: PLW0603  the process has one
    _wanted = accelerate
    watch.after_import(_MLFLOW, _install)


def switch_off() -> None:
    """Give MLflow back as it was. Never raises."""
    global _wanted  # noqa: PLW0603  the process has one
    _wanted = None
    autologging.switch_off()
    watch.forget(_MLFLOW, _install)
    if _INSTALLING in sys.modules:
        _attempt(lambda bridge: bridge.uninstall())


def hand_over_what_has_ended() -> None:
    """Hand over the spans that have ended of traces that go on. Never raises, and imports nothing: it
    is called for a signal too, which may have come in the middle of an import."""
    loaded: Any = sys.modules.get(_INSTALLING)
    if hasattr(loaded, "hand_over_what_has_ended"):
        _attempt(lambda bridge: bridge.hand_over_what_has_ended(), loaded)


def _install() -> None:
    if _wanted is not None:
        accelerate = _wanted
        _attempt(lambda bridge: bridge.install(accelerate=accelerate))


def _attempt(action: Callable[[_Installing], None], bridge: _Installing | None = None) -> None:
    try:
        if bridge is None:
            bridge = cast("_Installing", importlib.import_module(_INSTALLING))
        action(bridge)
    except Exception as error:  # noqa: BLE001  the app must not see our troubles
        say_once(
            "bridge",
            "MLflow's own API does not go through spanferry: %r; spanferry.trace and "
            "spanferry.start_span do",
            error,
        )
