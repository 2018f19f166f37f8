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


class Lengthless:
    """A mapping whose length, keys and items raise."""

    def __len__(self) -> int:
        raise RuntimeError("len")

    def keys(self) -> object:
        raise RuntimeError("keys")

    def items(self) -> object:
        raise RuntimeError("items")

    def __getitem__(self, key: object) -> object:
        raise RuntimeError("getitem")

    def __iter__(self) -> object:
        raise RuntimeError("iter")


class BadDict(dict):  # type: ignore[type-arg]
    """A dict that has something in it and refuses to show it."""

    def items(self) -> object:  # type: ignore[override]
        raise RuntimeError("items")

    keys = values = items  # type: ignore[assignment]

    def __iter__(self) -> object:  # type: ignore[override]
        raise RuntimeError("iter")

    def __len__(self) -> int:
        raise RuntimeError("len")


class BadList(list):  # type: ignore[type-arg]
    """The same of a list."""

    def __iter__(self) -> object:  # type: ignore[override]
        raise RuntimeError("iter")

    def __len__(self) -> int:
        raise RuntimeError("len")

    def copy(self) -> object:  # type: ignore[override]
        raise RuntimeError("copy")


class Liar:
    """Its text is no text, and its dump is itself."""

    def __str__(self) -> str:
        return 3  # type: ignore[return-value]  # noqa: PLE0307

    def __repr__(self) -> str:
        return None  # type: ignore[return-value]

    def model_dump(self) -> object:
        return self


@dataclasses.dataclass
class Itself:
    """A dataclass that holds itself."""

    me: object = None

    def __post_init__(self) -> None:
        self.me = [self]


@dataclasses.dataclass
class RaisingField:
    """A dataclass of which a field raises."""

    there: int = 1
    missing: int = 2

    def __getattribute__(self, name: str) -> object:
        if name == "missing":
            raise RuntimeError("missing")
        return object.__getattribute__(self, name)


class PanicException(BaseException):
    """What Rust panics with under Python: no Exception."""


class Panics:
    """Panics whatever one does with it."""

    def __getattr__(self, name: str) -> object:
        raise PanicException(name)

    def __repr__(self) -> str:
        raise PanicException("repr")

    def __str__(self) -> str:
        raise PanicException("str")

    def __bool__(self) -> bool:
        raise PanicException("bool")


class PanickingModel:
    """A model that panics; it has a text."""

    def model_dump(self) -> dict[str, object]:
        raise PanicException("dump")

    def __str__(self) -> str:
        return "model"


@dataclasses.dataclass(eq=False)
class PanickingField:
    """A dataclass of which a field panics."""

    there: int = 1
    missing: int = 2

    def __getattribute__(self, name: str) -> object:
        if name == "missing":
            raise PanicException("missing")
        return object.__getattribute__(self, name)

    def __repr__(self) -> str:
        return "field"


class PanickingMapping(dict):  # type: ignore[type-arg]
    """A dict that panics when its items are wanted."""

    def items(self) -> object:  # type: ignore[override]
        raise PanicException("items")
