"""What must not leave the process: `enable(redact=...)`, as the app says it."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

from msgspec import Struct

__all__ = ["PRESETS", "Redact", "Redaction", "redaction_of"]

PRESETS: Final = ("api-keys", "tokens", "passwords", "emails", "cards")

_ALL: Final = "all"
_MARK: Final = re.compile(r"[\w .-]{1,40}")

Regex: TypeAlias = str | re.Pattern[str]


class Redaction(Struct, frozen=True, kw_only=True):
    """What is replaced by a mark such as `[REDACTED:email]` before it leaves the calling thread.

    Raises ValueError where a preset is not known or a pattern cannot be used.
    """

    presets: Sequence[str] = ()
    """Of "api-keys", "tokens", "passwords", "emails", "cards"; or "all"."""
    fields: Sequence[str] = ()
    """Names whose values are withheld whole, wherever they are a key: `ssn`, `*_secret`. Upper and
    lower case, `_`, `-` and spaces do not count; `*` stands for anything."""
    patterns: Mapping[str, Regex] | Sequence[Regex] = ()
    """Regular expressions; in a mapping by the name that the mark says. What they match is replaced in
    every string, and an integer that one matches whole or in part is replaced altogether."""
    function: Callable[[Any, str], Any] | None = None
    """Called with every value, as JSON gives it back, and with its place (`inputs`, `outputs`, an
    attribute's name, `event exception`, `tag tier`, ...); what it returns is recorded instead. It runs
    before the rest. Where it raises, the value is withheld."""
    identities: bool = False
    """Look into session id, user id, client request id and who gave an assessment, too."""
    attachments: bool = False
    """Send attachments (images, files), into which nobody looks; else they are withheld."""

    def __post_init__(self) -> None:
        """Check what types cannot say. Raises ValueError."""
        for preset in _several(self.presets, "presets"):
            if preset not in PRESETS and preset != _ALL:
                known = ", ".join((*PRESETS, _ALL))
                raise ValueError(f"there is no preset {preset!r}: known are {known}")
        for field in _several(self.fields, "fields"):
            if not field.replace("*", "").strip(" _-"):
                raise ValueError(f"a field needs a name, {field!r} has none")
        self.named_patterns()
        if self.function is not None and not callable(self.function):
            raise ValueError("function must be callable: function(value, place) -> value")

    def named_presets(self) -> tuple[str, ...]:
        """The presets, `all` spelled out."""
        return PRESETS if _ALL in self.presets else tuple(dict.fromkeys(self.presets))

    def named_patterns(self) -> list[tuple[str, re.Pattern[str]]]:
        """Name and compiled expression of every pattern. Raises ValueError."""
        given = self.patterns
        if isinstance(given, str | re.Pattern):
            raise ValueError("patterns must be a list, or a mapping from names")  # noqa: TRY004
        pairs = given.items() if isinstance(given, Mapping) else (("pattern", one) for one in given)
        return [(_name(name), _compiled(one)) for name, one in pairs]


Redact: TypeAlias = Redaction | str | Sequence[Redaction | str]
"""As `enable()` takes it: a Redaction, or words such as `presets:emails`, `field:ssn`, `pattern:...`."""


def redaction_of(given: object) -> Redaction | None:
    """The redaction that is meant; None where nothing is to be redacted. Raises ValueError.

    A text is one word or several with commas between them, or a JSON list of words.
    """
    if isinstance(given, Redaction):
        return given
    words = _words(given) if isinstance(given, str) else given
    if not isinstance(words, Iterable) or isinstance(words, Mapping | bytes):
        raise ValueError(  # noqa: TRY004
            "it must be a spanferry.Redaction, or a list of words such as 'presets:emails'"
        )
    whole: list[Redaction] = []
    said: dict[str, list[str]] = {"presets": [], "field": [], "pattern": []}
    for word in cast("Iterable[object]", words):
        if isinstance(word, Redaction):
            whole.append(word)
            continue
        kind, colon, rest = word.partition(":") if isinstance(word, str) else ("", "", "")
        if kind not in said or not colon or not rest:
            raise ValueError(f"{word!r} is none of presets:<name>, field:<name>, pattern:<regex>")
        said[kind].append(rest)
    made = Redaction(presets=said["presets"], fields=said["field"], patterns=said["pattern"])
    return _together([*whole, made])


def _words(text: str) -> Sequence[str]:
    text = text.strip()
    if text.startswith("["):
        try:
            return cast("list[str]", json.loads(text))
        except ValueError as error:
            raise ValueError(f"it begins as a JSON list and is none: {error}") from error
    return [word for word in map(str.strip, text.split(",")) if word]


def _together(parts: list[Redaction]) -> Redaction | None:
    """All of them in one."""
    functions = [part.function for part in parts if part.function is not None]
    if len(functions) > 1:
        raise ValueError("there can be one function only")
    one = Redaction(
        presets=[preset for part in parts for preset in part.presets],
        fields=[field for part in parts for field in part.fields],
        patterns=_all_patterns(parts),
        function=functions[0] if functions else None,
        identities=any(part.identities for part in parts),
        attachments=any(part.attachments for part in parts),
    )
    nothing = not (one.presets or one.fields or one.patterns or one.function)
    return None if nothing else one


def _all_patterns(parts: list[Redaction]) -> Mapping[str, Regex] | Sequence[Regex]:
    named = [pair for part in parts for pair in part.named_patterns()]
    if len(dict(named)) == len(named):
        return dict(named)
    return [pattern for _, pattern in named]


def _several(given: object, what: str) -> Sequence[str]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(f"{what} must be a list of names")  # noqa: TRY004
    for one in cast("Sequence[object]", given):
        if not isinstance(one, str):
            raise ValueError(f"{what} must be names, not {one!r}")  # noqa: TRY004
    return cast("Sequence[str]", given)


def _name(name: object) -> str:
    if not isinstance(name, str) or not _MARK.fullmatch(name):
        raise ValueError(f"a pattern's name must be a short word, not {name!r}")
    return name


def _compiled(given: object) -> re.Pattern[str]:
    pattern = given
    if isinstance(given, str):
        try:
            pattern = re.compile(given)
        except re.error as error:
            raise ValueError(f"the pattern {given!r} is no regular expression: {error}") from error
    if not isinstance(pattern, re.Pattern) or not isinstance(pattern.pattern, str):
        message = f"a pattern must be a regular expression for text, not {given!r}"
        raise ValueError(message)  # noqa: TRY004
    found = cast("re.Pattern[str]", pattern)
    if found.search("") is not None:
        raise ValueError(f"the pattern {found.pattern!r} matches the empty text, so everything")
    return found
