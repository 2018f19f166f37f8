"""Pace: how much goes out at once and how long its acknowledgement may take, learnt on the way. Pure."""

from typing import Final

from spanferry_schemas.limits import RECORD_BYTES_FLOOR

__all__ = ["Pace"]

_PATIENCE_S: Final = 20.0
_PATIENCE_MAX_S: Final = 160.0
_QUICK_S: Final = 1.0
"""A batch that takes longer than this is large enough for the way there."""


class Pace:
    """A way too slow for what we send gets smaller batches and more patience, until it does well."""

    def __init__(self, batch_bytes: int) -> None:
        self._batch_bytes_max = batch_bytes
        self._out: dict[int, float] = {}
        self._session_patience_s = _PATIENCE_S
        self.batch_bytes = batch_bytes
        """Of a batch before compression."""
        self.patience_s = _PATIENCE_S
        """How long the next session waits for an acknowledgement."""

    def session(self) -> None:
        """Another producer begins, with nothing out."""
        self._out.clear()
        self._session_patience_s = self.patience_s

    def sent(self, partition: int, now_s: float) -> None:
        """A batch goes out."""
        self._out[partition] = now_s

    def settled(self, partition: int, now_s: float, *, acknowledged: bool) -> None:
        """It is back. Where it was acknowledged, trust again what was reduced."""
        began_s = self._out.pop(partition, now_s)
        if acknowledged:
            self.patience_s = _PATIENCE_S
            if now_s - began_s < _QUICK_S and self.batch_bytes < self._batch_bytes_max:
                larger = self.batch_bytes + RECORD_BYTES_FLOOR
                self.batch_bytes = min(larger, self._batch_bytes_max)

    def limit(self, batch_bytes: int) -> None:
        """The topic takes no larger batches than that."""
        self._batch_bytes_max = max(min(batch_bytes, self._batch_bytes_max), RECORD_BYTES_FLOOR)
        self.batch_bytes = min(self.batch_bytes, self._batch_bytes_max)

    def overdue_s(self, now_s: float) -> float | None:
        """How long a batch has waited in vain, which ends the session; None while all is well."""
        oldest_s = min(self._out.values(), default=now_s)
        if now_s - oldest_s < self._session_patience_s:
            return None
        self.patience_s = min(self.patience_s * 2, _PATIENCE_MAX_S)
        self.batch_bytes = max(self.batch_bytes // 4, RECORD_BYTES_FLOOR)
        return now_s - oldest_s
