"""When to build the bridge: at once where the app has MLflow, else as soon as it imports it."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final, Protocol, cast

from spanferry.log import say_once

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
    if _is_loaded():
        _install()
    elif _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def switch_off() -> None:
    """Give MLflow back as it was. Never raises."""
    global _wanted  # noqa: PLW0603  the process has one
    _wanted = None
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    if _INSTALLING in sys.modules:
        _attempt(lambda bridge: bridge.uninstall())


def hand_over_what_has_ended() -> None:
    """Hand over the spans that have ended of traces that go on. Never raises."""
    if _INSTALLING in sys.modules:
        _attempt(lambda bridge: bridge.hand_over_what_has_ended())


def _is_loaded() -> bool:
    """Whether MLflow is there, and not in the middle of its own import."""
    spec = getattr(sys.modules.get(_MLFLOW), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)


def _install() -> None:
    if _wanted is not None:
        accelerate = _wanted
        _attempt(lambda bridge: bridge.install(accelerate=accelerate))


def _attempt(action: Callable[[_Installing], None]) -> None:
    try:
        action(cast("_Installing", importlib.import_module(_INSTALLING)))
    except Exception as error:  # noqa: BLE001  the app must not see our troubles
        say_once(
            "bridge",
            "MLflow's own API does not go through spanferry: %r; spanferry.trace and "
            "spanferry.start_span do",
            error,
        )


class _ThenInstall(Loader):
    """MLflow's own loader, and the bridge as soon as it is done."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _install()


class _Finder(MetaPathFinder):
    """Sees the import of MLflow, finds it as if it were not there, and is gone."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002  the protocol's
    ) -> ModuleSpec | None:
        if fullname != _MLFLOW or path is not None:
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec(_MLFLOW)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenInstall(spec.loader)
        return spec


_finder: Final = _Finder()
