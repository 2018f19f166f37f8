"""Where two canonical values differ."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

__all__ = ["MISSING", "Difference", "differences"]

SHOWN = 400


class Difference(NamedTuple):
    """One place where a program stored or returned something else than natively."""

    path: str
    native: Any
    ours: Any

    def __str__(self) -> str:
        return f"{self.path}\n    native: {short(self.native)}\n    ours:   {short(self.ours)}"


class Missing:
    """Stands for what is not there."""

    def __repr__(self) -> str:
        return "<not there>"


MISSING: Final = Missing()


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


def differences(native: Any, ours: Any, path: str = "") -> Iterator[Difference]:
    """The innermost places at which they differ; types count."""
    if isinstance(native, dict) and isinstance(ours, dict):
        for key in [*native, *(key for key in ours if key not in native)]:
            inner = f"{path}/{key}" if path else str(key)
            yield from differences(native.get(key, MISSING), ours.get(key, MISSING), inner)
    elif isinstance(native, list) and isinstance(ours, list) and len(native) == len(ours):
        for index, (one, other) in enumerate(zip(native, ours, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")
    elif type(native) is not type(ours) or not same(native, ours):
        yield Difference(path, native, ours)


def same(native: Any, ours: Any) -> bool:
    """Equal, or both not a number."""
    return native == ours or (native != native and ours != ours)  # noqa: PLR0124
