"""`spanferry spool status | replay | drop`: the spool of a host, from outside of its apps."""

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from spanferry.client import Client
from spanferry.settings import ConfigurationError, Settings, load_settings, variable
from spanferry.spool import entries
from spanferry.spool.directory import Directory, SegmentFile
from spanferry.spool.entries import Stored
from spanferry.spool.segments import read, remove
from spanferry_schemas.security import Security

__all__ = ["OwnerStatus", "Status", "add_arguments", "run", "status_of"]

_FATAL_EXIT_CODE: Final = 3
_LOOKS: Final = 2
_LOOK_S: Final = 0.2
_MIB: Final = 1024 * 1024


class OwnerStatus(Struct, kw_only=True):
    """One process's part of the spool."""

    owner: str
    pid: int | None
    """The living process that has it, or has inherited it; None where nobody has."""
    segments: int = 0
    bytes: int = 0
    entries: int = 0
    """Not settled yet: handed over, and not known to be in Kafka."""
    traces: int = 0
    """Ends of traces among them."""
    corrupt_bytes: int = 0
    oldest_ms: int | None = None
    """When its oldest segment was begun, in ms since 1970."""


class Status(Struct, kw_only=True):
    """The whole folder."""

    path: str
    bytes: int
    bytes_max: int
    owners: list[OwnerStatus]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See the command `spanferry`."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    status = verbs.add_parser(
        "status", help="what waits there", description="Shows what waits in the spool, by process."
    )
    status.add_argument("--json", action="store_true", help="for programs; times in ms since 1970")
    replay = verbs.add_parser(
        "replay",
        help="send what no living process is going to send",
        description="Sends what processes that are gone have left. Apps that are still there, and any "
        "that start with the same folder, do so by themselves. Exit code 1 where something is left.",
    )
    replay.add_argument(
        "--bootstrap-servers", metavar="X", help="Kafka brokers, host:port[,host:port]"
    )
    replay.add_argument("--topic", metavar="X", help="the traces' topic")
    replay.add_argument("--timeout-s", metavar="S", type=float, default=60.0, help="give up after")
    drop = verbs.add_parser(
        "drop",
        help="delete what no living process owns",
        description="Deletes what processes that are gone have left. Says what it would delete; with "
        "--yes it does.",
    )
    drop.add_argument("--corrupt", action="store_true", help="only segments put aside for damage")
    drop.add_argument(
        "--older-than-h", metavar="H", type=float, default=0.0, help="only older ones"
    )
    drop.add_argument("--yes", action="store_true", help="really delete")
    for verb in (status, replay, drop):
        verb.add_argument("--dir", metavar="DIR", help="the folder; else SPANFERRY_SPOOL_DIR")


def run(args: argparse.Namespace) -> int:
    """One verb; its exit code. 3 where the folder cannot be looked at."""
    try:
        settings = _settings(args, os.environ)
        directory = _directory(settings)
        if args.verb == "status":
            return _show(directory, as_json=args.json)
        if args.verb == "replay":
            return _replay(settings, directory, args.timeout_s)
        return _drop(directory, args)
    except (ConfigurationError, OSError) as error:
        sys.stderr.write(f"spanferry spool {args.verb}: {error}\n")
        return _FATAL_EXIT_CODE


def status_of(directory: Directory) -> Status:
    """What is there, every entry read. Raises OSError."""
    owners: dict[str, OwnerStatus] = {}
    for one in directory.segments():
        status = owners.get(one.owner)
        if status is None:
            status = owners[one.owner] = OwnerStatus(
                owner=one.owner,
                pid=directory.holder_of(one.owner),
                oldest_ms=one.created_ms,
            )
        status.segments += 1
        status.bytes += one.size
        _count(one, status)
    return Status(
        path=str(directory.path),
        bytes=sum(one.bytes for one in owners.values()),
        bytes_max=directory.bytes_max,
        owners=list(owners.values()),
    )


def _count(one: SegmentFile, status: OwnerStatus) -> None:
    try:
        for found in read(one.path):
            if not isinstance(found, Stored):
                if not found.at_end or one.sealed:
                    status.corrupt_bytes += found.length
            elif not one.corrupt:
                status.entries += 1
                status.traces += entries.decode(found.payload).ends_trace
    except FileNotFoundError:
        return  # its owner has just finished with it
    except msgspec.MsgspecError:
        status.corrupt_bytes += one.size


def _settings(args: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """The app's own settings, from the same environment."""
    known = {
        "spool_dir": args.dir,
        "bootstrap_servers": getattr(args, "bootstrap_servers", None),
        "topic": getattr(args, "topic", None),
    }
    if args.verb != "replay":  # nobody is asked there
        known["bootstrap_servers"] = "not:0"
        security = {variable(name) for name in Security.__struct_fields__}
        environment = {name: environment[name] for name in environment if name not in security}
    return load_settings(known, environment)


def _directory(settings: Settings) -> Directory:
    if not settings.spool_dir:
        raise ConfigurationError("no folder: give --dir, or set SPANFERRY_SPOOL_DIR")
    path = Path(settings.spool_dir)
    if not path.is_dir():
        raise ConfigurationError(f"{path} is not a folder")
    return Directory(path, settings.spool_bytes)


def _show(directory: Directory, *, as_json: bool) -> int:
    status = status_of(directory)
    if as_json:
        sys.stdout.write(msgspec.json.encode(status).decode() + "\n")
        return 0
    sys.stdout.write(
        f"{status.path}: {status.bytes / _MIB:.1f} of {status.bytes_max / _MIB:.0f} MiB, "
        f"{sum(one.entries for one in status.owners)} parcels wait\n"
    )
    if status.owners:
        rows: list[tuple[str, ...]] = [
            ("OWNER", "PROCESS", "SEGMENTS", "MIB", "PARCELS", "TRACES", "CORRUPT BYTES", "OLDEST")
        ]
        rows += [_row(one) for one in status.owners]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            sys.stdout.write(line.rstrip() + "\n")
    return 0


def _row(one: OwnerStatus) -> tuple[str, ...]:
    age_s = 0.0 if one.oldest_ms is None else max(time.time_ns() / 1e9 - one.oldest_ms / 1000, 0.0)
    return (
        one.owner,
        "gone" if one.pid is None else f"pid {one.pid}",
        str(one.segments),
        f"{one.bytes / _MIB:.1f}",
        str(one.entries),
        str(one.traces),
        str(one.corrupt_bytes),
        f"{age_s / 3600:.1f} h ago",
    )


def _replay(settings: Settings, directory: Directory, timeout_s: float) -> int:
    client = Client(settings)
    client.start()
    deadline_s = time.monotonic() + timeout_s
    left: Sequence[SegmentFile] = ()
    clear = 0
    try:
        # Twice: who has just inherited a lock has not put its name there yet, and the one before,
        # which is gone, seems to hold it.
        while clear < _LOOKS and time.monotonic() < deadline_s:
            left = _left(directory)
            clear = 0 if left else clear + 1
            time.sleep(_LOOK_S)
    finally:
        client.close(settings.exit_timeout_s)
    stats = client.stats()
    sys.stdout.write(
        f"{stats.spool_bytes_replayed} bytes of {stats.spool_parcels_replayed} parcels sent\n"
    )
    if stats.spool_corrupt_bytes:
        sys.stdout.write(
            f"{stats.spool_corrupt_bytes} bytes are corrupt and stay in .corrupt files\n"
        )
    if left:
        sys.stderr.write(
            f"spanferry spool replay: {len(left)} segments are left after {timeout_s:.0f} s: "
            f"{stats.last_error or 'give it more --timeout-s'}\n"
        )
    return 1 if left else 0


def _left(directory: Directory) -> Sequence[SegmentFile]:
    """Segments of processes that are gone, those that this one has inherited included."""
    ours = {None, os.getpid(), 0}
    segments = (one for one in directory.segments() if not one.corrupt)
    return [one for one in segments if directory.holder_of(one.owner) in ours]


def _drop(directory: Directory, args: argparse.Namespace) -> int:
    before_ms = time.time_ns() / 1e6 - args.older_than_h * 3_600_000
    count = size = 0
    for one in _abandoned(directory, corrupt_only=args.corrupt):
        if one.created_ms <= before_ms:
            count += 1
            size += one.size
            if args.yes:
                remove(one.path)
    said = "deleted" if args.yes else "would be deleted; add --yes"
    sys.stdout.write(f"{count} segments, {size} bytes {said}\n")
    return 0


def _abandoned(directory: Directory, *, corrupt_only: bool) -> Iterator[SegmentFile]:
    by_owner: dict[str, list[SegmentFile]] = defaultdict(list)
    for one in directory.segments():
        if one.corrupt:
            yield one
        else:
            by_owner[one.owner].append(one)
    if corrupt_only:
        return
    for name, segments in by_owner.items():
        owner = directory.own(name)
        if owner is not None:
            yield from segments
            left = any(one.owner == name and not one.corrupt for one in directory.segments())
            owner.release(empty=not left)
