"""A ledger's topic without Kafka."""

from spanferry_worker.stages.accounts import Books, Entry, Kept, read_entry
from spanferry_worker.stages.ledger import Ledger, LedgerPolicy

__all__ = ["BOOKS", "DAY_MS", "ONE", "OTHER", "Topic"]

BOOKS = Books("group", "traces", 0)
ONE, OTHER = b"1" * 8, b"2" * 8
DAY_MS = 86_400_000


class Topic:
    """A compacted topic, and the owners of a partition one after another."""

    def __init__(self, **policy: float) -> None:
        self.policy = LedgerPolicy(**policy)  # type: ignore[arg-type]
        self.entries: dict[bytes, bytes | None] = {}

    @property
    def kept(self) -> list[Kept]:
        found = map(read_entry, self.entries.values())
        return [one for one in found if one is not None]

    def owner(
        self, resumed_at: int | None = None, end: int | None = None, now_ms: int = 0
    ) -> Ledger:
        ledger = Ledger(self.policy, BOOKS)
        ledger.begin(self.kept, resumed_at=resumed_at, end=end, now_ms=now_ms)
        return ledger

    def save(self, entries: list[Entry]) -> None:
        self.entries |= {entry.key: entry.value for entry in entries}

    def commit(self, ledger: Ledger, watermark: int, now_ms: int = 0) -> None:
        ledger.fold(watermark, now_ms)
        self.save(ledger.changes(now_ms))
