"""Doing something once a module has been imported, without importing it, or anything else.

A finder at the front of sys.meta_path finds those modules as if it were not there, and has the loader
say when it is done. It leaves when nobody waits any more.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

__all__ = ["after_import", "forget"]

_waiting: dict[str, list[Callable[[], object]]] = {}
_executed: set[str] = set()
"""Modules whose code has run; their import may still be about to return."""


def after_import(name: str, action: Callable[[], object]) -> None:
    """Call `action`, which must not raise, once the module is there: now, or when it comes."""
    if _is_loaded(name):
        action()
        return
    actions = _waiting.setdefault(name, [])
    if action not in actions:
        actions.append(action)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def forget(name: str, action: Callable[[], object]) -> None:
    """Do not call it any more, if it still waits."""
    actions = _waiting.get(name, [])
    if action in actions:
        actions.remove(action)
    if not actions:
        _waiting.pop(name, None)
    _leave_if_done()


def _is_loaded(name: str) -> bool:
    """Whether it is there, and not in the middle of its own import."""
    module = sys.modules.get(name)
    if module is None:
        return False
    spec = getattr(module, "__spec__", None)
    return name in _executed or not getattr(spec, "_initializing", False)


def _leave_if_done() -> None:
    if not _waiting and _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


class _Saying:
    """A module's own loader, and then whatever waits for the module."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _executed.add(name)
        actions = _waiting.pop(name, [])
        _leave_if_done()
        for action in actions:
            action()


class _Finder:
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As the finders behind this one have it. Looking for a module does not import it."""
        if fullname not in _waiting:
            return None
        for finder in [one for one in sys.meta_path if one is not self]:
            look = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = look(fullname, path, target) if look is not None else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Saying(spec.loader)  # type: ignore[assignment]
                return spec
        return None


_finder = _Finder()
