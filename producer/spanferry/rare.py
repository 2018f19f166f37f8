"""Which of the features that most apps never use are in use: what most requests need not look at."""

from typing import Final

__all__ = ["RARE"]


class _Rare:
    """Set by a feature's first use in the process, and never taken back."""

    __slots__ = ("models", "scopes")

    def __init__(self) -> None:
        self.models = False
        """A model has been made active."""
        self.scopes = False
        """`spanferry.context` has been entered, or MLflow's API goes through spanferry."""


RARE: Final = _Rare()
