"""What `spanferry ledger` would say of a broker and a ledger in memory."""

from spanferry_worker.stages.accounts import Books, read_entry
from spanferry_worker.stages.statement import PartitionStatement, Statement, state
from spanferry_worker.testing import MemoryBroker, MemoryLedger

__all__ = ["statement_of"]


def statement_of(broker: MemoryBroker, ledger: MemoryLedger, group: str) -> Statement:
    """What became of every record, by what workers have kept and what lies behind that."""
    kept = [one for one in map(read_entry, ledger.entries.values()) if one is not None]
    parts = []
    for place in broker.partitions:
        records = broker.records[place.partition]
        part = PartitionStatement(
            Books(group, *place),
            kept,
            begin=broker.first_offsets[place.partition],
            committed=broker.committed.get(place),
            now_ms=0,
        )
        part.read(records[part.begin :], reports_below=len(records))
        parts.append(part)
    return state(parts)
