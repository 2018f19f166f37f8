"""The model to which new traces belong."""

from collections.abc import Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Final, Self

from spanferry import values
from spanferry.log import say_once
from spanferry.process import PROCESS
from spanferry.texts import usable_texts

__all__ = [
    "NAME_REFUSES",
    "ActiveModel",
    "clear_active_model",
    "get_active_model",
    "set_active_model",
]

NAME_REFUSES: Final = "/:.%\"'"
"""What MLflow refuses in a LoggedModel's name."""


class ActiveModel:
    """A model that has been made active; as a context manager it gives way again at the end."""

    __slots__ = ("_before", "_token", "model_id", "name", "params")

    def __init__(self, name: str | None, model_id: str | None, params: dict[str, str]) -> None:
        self.name = name
        self.model_id = model_id
        self.params = params
        """Never changed: every trace of the model refers to it."""
        self._before: ActiveModel | None = None
        self._token: Token[ActiveModel | None] | None = None

    def activate(self) -> None:
        """Active here, and wherever no other model has been made active."""
        global _anywhere
        PROCESS.models = True
        PROCESS.plain = None
        self._before, _anywhere = _anywhere, self
        self._token = _here.set(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        stack: TracebackType | None,
    ) -> None:
        global _anywhere  # noqa: PLW0603  the process has one
        if _anywhere is self:
            _anywhere = self._before
        token, self._token = self._token, None
        if token is not None:
            try:
                _here.reset(token)
            except ValueError:  # left in another context than it was entered in
                return


_NAMES_MAX: Final = 1_000

_given: Final[dict[str, dict[str, str]]] = {}
"""Params by name, as they were given first."""

_here: ContextVar[ActiveModel | None] = ContextVar("spanferry_active_model", default=None)
_anywhere: ActiveModel | None = None


def set_active_model(
    *,
    name: str | None = None,
    model_id: str | None = None,
    params: Mapping[str, Any] | None = None,
) -> ActiveModel:
    """Link the traces that start from now on to a LoggedModel, by name or by id.

    The worker looks the name up, and makes the model where there is none, with `params` (temperature,
    prompt version, retriever's settings) as its parameters; values are stored as text. A parameter keeps
    the value that this process has given first, as MLflow's do: another value is another version, and
    wants a name of its own. Holds in this context (thread or task and what it starts) and in those that
    have not set a model themselves.
    """
    model = ActiveModel(
        None if name is None else values.text(name),
        None if model_id is None else values.text(model_id),
        usable_texts(params, "a model's params are"),
    )
    if not model.name and model.model_id is None:
        say_once("active-model", "set_active_model needs a name or a model_id: nothing is changed")
        return model
    if model.model_id is not None and model.params:
        say_once(
            "model-id-params", "params are for a model by name: with a model_id they are left out"
        )
    if model.model_id is None and any(letter in NAME_REFUSES for letter in model.name or ""):
        say_once(
            "model-name",
            "set_active_model(name=%r): MLflow refuses a name with one of %s in it, so traces are "
            "stored without their model: replace it, as git_version() does",
            model.name,
            " ".join(NAME_REFUSES),
        )
    if model.name and model.params:
        model.params = _as_first_given(model.name, model.params)
    model.activate()
    return model


def _as_first_given(name: str, params: dict[str, str]) -> dict[str, str]:
    """Whichever trace the worker sees first, the model is made with the same parameters."""
    if len(_given) >= _NAMES_MAX:
        _given.clear()
    first = _given.setdefault(name, {})
    kept = {key: first.setdefault(key, text) for key, text in params.items()}
    if kept != params:
        say_once(
            f"model-params-{name}",
            "set_active_model(name=%r): other params than before, which MLflow does not change: the "
            "first ones stay. Give the new version a name of its own",
            name,
        )
    return kept


def clear_active_model() -> None:
    """Traces that start here from now on belong to no model, whatever the environment names."""
    ActiveModel(None, None, {}).activate()


def get_active_model() -> ActiveModel | None:
    """The model of a trace that starts here and now."""
    return _here.get() or _anywhere
