"""Where settings come from: a file's values with their origin, and names close to a wrong one."""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from spanferry_worker.errors import SettingsError

__all__ = ["Given", "from_toml", "nearest"]


class Given(NamedTuple):
    """A value and where it came from."""

    value: object
    origin: str


def from_toml(path: Path) -> Iterator[tuple[str, Given]]:
    """Every value of a file by `section.key`. Raises SettingsError."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"--config {path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"--config {path}: not TOML: {error}") from None
    for section, values in content.items():
        if not isinstance(values, dict):
            raise SettingsError(f"{path}: {section} stands outside of a [section]")
        for key, value in values.items():
            yield f"{section}.{key}", Given(value, str(path))


def nearest(name: str, known: list[str] | Mapping[str, str]) -> str:
    """Ends a message on a name that is not known: the one that may have been meant."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else "; see docs/settings.md"
