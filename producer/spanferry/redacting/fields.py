"""Names of fields whose values are withheld, as keys are compared with them."""

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["FOLDED_DIGITS", "SEPARATORS", "Fields", "folded_name"]

SEPARATORS: Final = b"_- "
"""What does not count in a name: api_key, API-Key and apikey are one."""

_LOWER: Final = bytes(range(256)).lower()
_KNOWN_MAX: Final = 4_096
"""Keys that are remembered; an app has few, data that is its own key may have any number."""

FOLDED_DIGITS: Final = bytes(ord("0") if chr(code).isdigit() else code for code in _LOWER[:128]) + (
    _LOWER[128:]
)
"""For `bytes.translate`: lower case, and every digit a 0."""


def folded_name(name: str) -> str:
    """A name without what does not count in it."""
    return name.encode("utf-8", "replace").translate(_LOWER, SEPARATORS).decode("utf-8", "replace")


class Fields:
    """All fields of one redaction, by name; an asterisk stands for anything."""

    def __init__(self, named: Iterable[tuple[str, str]]) -> None:
        """`named`: fields, and the word of the mark that takes their values' place."""
        self._exact: dict[str, str] = {}
        self._wild: list[tuple[re.Pattern[str], str]] = []
        self._known: dict[str, str | None] = {}
        needles: list[bytes] = []
        for field, word in named:
            folded = folded_name(field)
            mark = f"[REDACTED:{word}]"
            if "*" in folded:
                parts = map(re.escape, folded.split("*"))
                self._wild.append((re.compile(".*".join(parts), re.DOTALL), mark))
            else:
                self._exact.setdefault(folded, mark)
            needles.append(max(folded.split("*"), key=len).encode().translate(FOLDED_DIGITS))
        self.needles: Final[tuple[bytes, ...]] = _shortest(needles)
        """Of every name that matches, folded as by `FOLDED_DIGITS`, one of these is a part."""

    def __bool__(self) -> bool:
        return bool(self._exact or self._wild)

    def mark_of(self, key: str) -> str | None:
        """What takes the place of that key's value; None where that may stay."""
        try:
            return self._known[key]
        except KeyError:
            pass
        folded = folded_name(key)
        mark = self._exact.get(folded)
        if mark is None:
            mark = next((mark for wild, mark in self._wild if wild.fullmatch(folded)), None)
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known[key] = mark
        return mark


def _shortest(needles: list[bytes]) -> tuple[bytes, ...]:
    """Those in which no other is a part: whoever finds the other has found them."""
    alone = dict.fromkeys(needles)
    return tuple(one for one in alone if not any(o != one and o in one for o in alone))
