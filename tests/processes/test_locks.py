"""Locks on the spool's folder that a forked child has a copy of: they are given back all the same."""

import os
from pathlib import Path

from spanferry.spool.directory import Directory


def copy_of(path: Path) -> int:
    """As a child gets it by a fork: another descriptor of the same open file."""
    for entry in Path("/proc/self/fd").iterdir():
        if entry.is_symlink() and entry.readlink() == path:
            return os.dup(int(entry.name))
    raise AssertionError(f"{path} is not open")


def test_the_lock_of_the_room(tmp_path: Path) -> None:
    directory = Directory(tmp_path, 10_000_000)
    with directory.room(1) as there_is:
        assert there_is
        copy = copy_of(tmp_path / "room.lock")
    with directory.room(1) as there_is:
        assert there_is
    os.close(copy)


def test_the_lock_of_an_owner(tmp_path: Path) -> None:
    directory = Directory(tmp_path, 10_000_000)
    owner = directory.own("one")
    assert owner is not None
    copy = copy_of(tmp_path / "one.lock")
    owner.release(empty=False)
    again = directory.own("one")
    assert again is not None
    again.release(empty=True)
    os.close(copy)
