"""Entries, and a spool of one's own, for the tests."""

from pathlib import Path

from spanferry.records import Record
from spanferry.settings import load_settings
from spanferry.spool.entries import Entry, Origin, SpooledRecord
from spanferry.spool.spool import Spool, new_spool
from spanferry_schemas import RecordKind


def record(number: int, size: int = 100) -> Record:
    """A record that says its number."""
    value = number.to_bytes(8, "big") + bytes(max(size - 8, 0))
    return Record(key=number.to_bytes(16, "big"), value=value, kind=RecordKind.FRAGMENT)


def entry(number: int, size: int = 100, origin: Origin | None = None) -> Entry:
    """An entry of one record."""
    return Entry([SpooledRecord(record(number, size), origin)], ends_trace=True)


def number_of(made: Entry) -> int:
    """The number of `entry`."""
    return int.from_bytes(made.records[0].record.key, "big")


def spool_in(path: Path, **options: object) -> Spool:
    """An open spool there."""
    settings = load_settings({"bootstrap_servers": "x:1", "spool_dir": str(path), **options}, {})
    spool = new_spool(settings)
    assert spool is not None
    spool.open()
    return spool


def drain(spool: Spool, *, settle: bool = True) -> list[int]:
    """The numbers of all entries that are to be sent again."""
    numbers = []
    while found := spool.next():
        ticket, one = found
        numbers.append(number_of(one))
        if settle:
            ticket.settle()
    return numbers
