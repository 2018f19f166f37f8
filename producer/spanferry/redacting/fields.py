"""Names of fields whose values are withheld, as keys are compared with them."""

import re
from collections.abc import Iterable
from typing import Final

from spanferry.redacting.places import Places

__all__ = ["Fields", "Needles", "fold", "folded_name"]

_NAME_BYTES: Final = 96
"""Of a longer key its end counts."""

_LOWER: Final = bytes(range(256)).lower()
_FOLDED: Final = bytes(
    {ord("="): ord(":")}.get(code, ord("0") if chr(code).isdigit() else code)
    if code < 128
    else code
    for code in _LOWER
)

_KNOWN_MAX: Final = 4_096
"""Keys that are remembered; an app has few, data that is its own key may have any number."""

_ROOTS: Final = (b"key", b"token", b"pass", b"secret", b"auth")
"""Parts that many names have in common: where none is found, none of the names needs to be looked for."""


def folded_name(name: str) -> str:
    """A name without what does not count in it: api_key, API-Key and apikey are one."""
    folded = name.encode("utf-8", "replace").translate(_LOWER, b"_- ")
    return folded[-_NAME_BYTES:].decode("utf-8", "replace")


def fold(data: bytes) -> bytes:
    """A JSON text as needles are looked for in it: lower case, every digit a 0, = as :, and without
    what does not count in a name or stands around it."""
    return data.translate(_FOLDED, b"_- \"'\\")


class Needles:
    """Parts of names, one of which must be before a colon where anything is to be redacted."""

    def __init__(self, needles: Iterable[bytes]) -> None:
        groups: dict[bytes, list[bytes]] = {}
        for needle in sorted(set(needles)):
            root = next((root for root in _ROOTS if root in needle), needle)
            groups.setdefault(root, []).append(needle)
        self._groups = [(root, tuple(needles)) for root, needles in groups.items()]

    def found_in(self, folded: bytes, *, anywhere: bool = False) -> set[bytes]:
        """Those that stand before a colon in what `fold` gave, or `anywhere`; and maybe others."""
        names = folded
        if not anywhere and 2 * _NAME_BYTES * folded.count(b":") < len(
            folded
        ):  # long texts, few names
            names = b":".join([part[-_NAME_BYTES:] for part in folded.split(b":")])
        return {
            needle
            for root, needles in self._groups
            if root in names
            for needle in needles
            if needle in names
        }


class Fields:
    """All fields of one redaction, by name; an asterisk stands for anything."""

    def __init__(self, named: Iterable[tuple[str, str]]) -> None:
        """`named`: fields, and the word of the mark that takes their values' place."""
        self._exact: dict[str, str] = {}
        self._wild: list[tuple[re.Pattern[str], str]] = []
        self._known: dict[str, str | None] = {}
        needles: set[bytes] = set()
        longest: set[str] = set()
        wild: list[str] = []
        for field, word in named:
            folded = folded_name(field)
            mark = f"[REDACTED:{word}]"
            if "*" in folded:
                parts = map(re.escape, folded.split("*"))
                wild.append(".*".join(parts))
                self._wild.append((re.compile(wild[-1], re.DOTALL), mark))
            else:
                self._exact.setdefault(folded, mark)
            part = max(folded.split("*"), key=len)
            longest.add(part)
            needles.add(fold(part.encode()))
        self._any_wild = re.compile("|".join(wild), re.DOTALL) if wild else None
        self.needles: Final = frozenset(needles)
        """Of every name that matches, folded, one of these is a part."""
        self._places = Places(longest)

    def __bool__(self) -> bool:
        return bool(self._exact or self._wild)

    def signs(self, text: str) -> list[re.Match[str]]:
        """The colons and equals signs of a text that may stand behind names of fields."""
        return self._places.signs(text)

    def mark_of(self, key: str) -> str | None:
        """What takes the place of that key's value; None where that may stay."""
        try:
            return self._known[key]
        except KeyError:
            pass
        folded = folded_name(key)
        mark = self._exact.get(folded)
        if mark is None and self._any_wild is not None and self._any_wild.fullmatch(folded):
            mark = next(mark for wild, mark in self._wild if wild.fullmatch(folded))
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known[key] = mark
        return mark
