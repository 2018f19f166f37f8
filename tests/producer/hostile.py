"""Values that no logging library likes, and that production has."""

import dataclasses


class Hostile:
    """Raises whatever one does with it."""

    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise RuntimeError("class")

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    def __str__(self) -> str:
        raise RuntimeError("str")

    def __bool__(self) -> bool:
        raise RuntimeError("bool")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    def __hash__(self) -> int:
        return 1


class MetaHostile(type):
    """A class whose own name raises."""

    @property
    def __name__(cls) -> str:
        raise RuntimeError("name")

    @property
    def __module__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("module")


class FromMeta(metaclass=MetaHostile):
    """An object of such a class."""

    def __str__(self) -> str:
        raise RuntimeError("str")

    __repr__ = __str__


class BrokenModel:
    """model_dump raises, str does not."""

    def model_dump(self) -> dict[str, object]:
        raise ValueError("no")

    def __str__(self) -> str:
        return "broken"


class EndlessModel:
    """model_dump gives another model, for ever."""

    def model_dump(self) -> dict[str, object]:
        return {"next": EndlessModel()}


@dataclasses.dataclass
class HalfMade:
    """A dataclass of which a field is missing."""

    there: int
    missing: int

    def __init__(self) -> None:
        self.there = 1

    def __str__(self) -> str:
        return "half"


class BadWords(str):
    """A string that refuses everything."""

    __slots__ = ()

    def isascii(self) -> bool:
        raise RuntimeError("isascii")

    def encode(self, *args: object) -> bytes:
        raise RuntimeError("encode")

    def __str__(self) -> str:
        raise RuntimeError("str")
