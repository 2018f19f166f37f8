"""Names and values of the app's own as text: tags, metadata, parameters, sessions."""

import json
from collections.abc import Mapping
from typing import Any, cast

from spanferry import values
from spanferry.log import say_once
from spanferry.stopping import let_through

__all__ = ["session_text", "texts_of", "usable_texts"]


def session_text(session_id: object) -> str:
    """A session's id as MLflow keeps it.

    A list of strings names it level by level, outermost first, and is kept as compact JSON, as by
    MLflow from 3.18 on: `["trip-2","episode-1"]`. What else is no string is `values.text`, said once.
    """
    if issubclass(type(session_id), list):
        levels = [*list.__iter__(cast("list[object]", session_id))]
        if levels and all(issubclass(type(level), str) for level in levels):
            return values.clean(json.dumps(levels, separators=(",", ":"), ensure_ascii=False))
    if not issubclass(type(session_id), str):
        say_once("session", "session_id must be a string, or a list of strings: it is kept as text")
    return values.text(session_id)


def texts_of(given: Mapping[Any, Any]) -> dict[str, str]:
    """Keys and values as `values.text` gives them. Raises whatever a mapping of the app's own raises."""
    return {values.text(key): values.text(value) for key, value in given.items()}


def usable_texts(given: Mapping[Any, Any] | None, what: str) -> dict[str, str]:
    """The same; nothing of what cannot be read, and said once: `what` is its name and the verb."""
    try:
        return texts_of(given or {})
    except BaseException as error:  # noqa: BLE001  whatever a user's mapping does
        let_through(error)
        say_once(f"texts-of {what}", "%s left out: %s", what, values.text(error))
        return {}
