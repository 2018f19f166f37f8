"""Names and values of the app's own as text: tags, metadata, parameters."""

from collections.abc import Mapping
from typing import Any

from spanferry import values
from spanferry.log import say_once
from spanferry.stopping import let_through

__all__ = ["texts_of", "usable_texts"]


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
