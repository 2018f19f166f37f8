"""How loud a failure is that goes on without the worker: a warning while it is new, then for debugging."""

import logging

__all__ = ["Complaint"]


class Complaint:
    """Of one thing that may fail again and again."""

    def __init__(self) -> None:
        self._said: str | None = None

    def about(self, error: BaseException) -> tuple[int, str]:
        """The level to log it at, and what there is to say. Kafka's client has no words for a time-out."""
        text = str(error) or "Kafka does not answer in time"
        level = logging.DEBUG if text == self._said else logging.WARNING
        self._said = text
        return level, text

    def over(self) -> None:
        """It works: the next failure is a new one."""
        self._said = None
