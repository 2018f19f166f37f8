"""A call's arguments by name, as MLflow records them as a span's inputs."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

__all__ = ["Arguments"]

_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Arguments:
    """One function's signature, read once. Calling it costs a dict where there is no *args, **kwargs.

    `self` is left out, and a first parameter `cls` that is a class.
    """

    __slots__ = ("_defaults", "_has_cls", "_has_self", "_names", "_positional", "_signature")

    def __init__(self, function: Callable[..., Any]) -> None:
        self._signature = _signature(function)
        parameters = [] if self._signature is None else list(self._signature.parameters.values())
        names = [parameter.name for parameter in parameters]
        if any(parameter.kind in _VARIADIC for parameter in parameters):
            self._names: tuple[str, ...] | None = None
        else:
            self._names = tuple(names)
        self._positional = sum(
            parameter.kind is not inspect.Parameter.KEYWORD_ONLY for parameter in parameters
        )
        self._defaults = {
            parameter.name: parameter.default
            for parameter in parameters
            if parameter.default is not inspect.Parameter.empty
        }
        self._has_self = "self" in names
        self._has_cls = names[:1] == ["cls"]

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        """The arguments with defaults filled in, in the signature's order; None where they do not
        fit, which the call itself will then say."""
        names = self._names
        if names is None or self._signature is None:
            inputs = self._bind(args, kwargs)
        elif not kwargs and len(args) == len(names) == self._positional:
            inputs = dict(zip(names, args, strict=False))
        else:
            inputs = self._fill(names, args, kwargs)
        if inputs is not None:
            if self._has_self:
                inputs.pop("self", None)
            if self._has_cls and issubclass(type(inputs["cls"]), type):
                del inputs["cls"]
        return inputs

    def _fill(
        self, names: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        if len(args) > self._positional:
            return None
        inputs: dict[str, Any] = dict(zip(names, args, strict=False))
        used = 0
        for name in names[len(args) :]:
            if name in kwargs:
                inputs[name] = kwargs[name]
                used += 1
            elif name in self._defaults:
                inputs[name] = self._defaults[name]
            else:
                return None
        return inputs if used == len(kwargs) else None

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        if self._signature is None:
            return None
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError:
            return None
        bound.apply_defaults()
        return bound.arguments


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None
