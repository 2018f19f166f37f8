"""How the processes of a host share the bytes of the folder: what one holds back from the others."""

import fcntl
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spanferry import log
from spanferry.spool import directory
from spanferry.spool.directory import Directory
from spanferry.spool.spool import Spool
from tests.spool.made import drain, entry, spool_in

WORKERS = 70
MEBI = 1024 * 1024


def on_disk(folder: Path) -> int:
    """Bytes of all segments, whoever writes them."""
    return sum(
        one.stat().st_size for one in folder.iterdir() if one.suffix in {".open", ".seg", ".done"}
    )


@contextmanager
def many(folder: Path, count: int, **options: object) -> Iterator[list[Spool]]:
    """So many processes' spools."""
    spools = [spool_in(folder, **options) for _ in range(count)]
    try:
        yield spools
    finally:
        for one in spools:
            one.close()


@pytest.mark.parametrize("mode", ["overflow", "always"])
def test_as_many_workers_as_a_host_has_can_all_write(tmp_path: Path, mode: str) -> None:
    """With the default bytes, and two segments each where everything is kept."""
    with many(tmp_path, WORKERS, spool_mode=mode) as spools:
        for number in range(3):
            for one in spools:
                assert one.put(entry(number, size=10_000))
                assert mode == "overflow" or one.keep(entry(100 + number, size=10_000))
        segments = WORKERS * (1 if mode == "overflow" else 2)
        assert spools[0].directory.used_bytes() <= segments * 64 * 1024
        assert not any(one.counted().refused for one in spools)
        assert all(drain(one) == [0, 1, 2] for one in spools)


def test_many_who_write_much_fill_the_folder_and_no_more(tmp_path: Path) -> None:
    bytes_max, chance = 24 * MEBI, random.Random(7)
    with many(tmp_path, WORKERS, spool_bytes=bytes_max) as spools:
        taken: list[list[int]] = [[] for _ in spools]
        for number in range(1_000):
            which = number if number < WORKERS else chance.randrange(WORKERS)
            size = (
                200
                if number < WORKERS
                else chance.choice([200, 5_000, 20_000, 60_000, 400_000, 3 * MEBI])
            )
            if spools[which].put(entry(number, size=size)):
                taken[which].append(number)
            if number % 200 == 0:
                assert on_disk(tmp_path) <= spools[0].directory.used_bytes() <= bytes_max
        assert on_disk(tmp_path) <= spools[0].directory.used_bytes() <= bytes_max
        assert on_disk(tmp_path) > bytes_max * 0.9
        assert all(taken)
        assert all(one.counted().refused for one in spools)
        assert [drain(one) for one in spools] == taken


_CHILD = """
import sys
from pathlib import Path
from tests.spool.made import entry, spool_in
spool = spool_in(Path(sys.argv[1]), spool_bytes=int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
taken = 0
while spool.put(entry(taken, size=3_000)):
    taken += 1
print(taken, spool.counted().refused, flush=True)
sys.stdin.readline()
"""


def test_processes_that_write_at_once_stay_within_the_bytes_together(tmp_path: Path) -> None:
    bytes_max = 16 * MEBI
    words = [sys.executable, "-c", _CHILD, str(tmp_path), str(bytes_max)]
    children = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    try:
        for one in children:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        for one in children:
            assert one.stdin is not None
            one.stdin.write("\n")
            one.stdin.flush()
        said = [one.stdout.readline().split() for one in children if one.stdout is not None]
        assert on_disk(tmp_path) <= bytes_max
        assert on_disk(tmp_path) > bytes_max * 0.9
        assert sum(int(taken) for taken, _ in said) * 3_000 > bytes_max * 0.9
        assert all(refused == "1" for _, refused in said)
    finally:
        for one in children:
            one.kill()
            one.communicate()


def test_the_lock_is_not_asked_for_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment doubles up to a mebibyte, and grows by mebibytes from there on."""
    spool = spool_in(tmp_path)
    asked = []
    real = Directory.room
    monkeypatch.setattr(
        Directory, "room", lambda *args, **named: asked.append(1) or real(*args, **named)
    )
    assert spool.directory.segment_bytes == 16 * MEBI
    for number in range(16 * 1024 - 200):
        assert spool.put(entry(number, size=950))
    (segment,) = tmp_path.glob("*.open")
    assert 15 * MEBI < segment.stat().st_size < 16 * MEBI
    assert len(asked) <= 7 + 15


def test_one_that_is_stopped_while_it_has_the_lock_holds_nobody_up_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(directory, "_LOCK_S", 0.05)
    monkeypatch.setattr(log, "_said_at_s", {})
    spool = spool_in(tmp_path)
    assert spool.put(entry(0, size=10_000))
    stopped = os.open(tmp_path / "room.lock", os.O_RDWR)
    fcntl.flock(stopped, fcntl.LOCK_EX)
    assert not spool.put(entry(1, size=10_000))
    assert not spool.ready
    assert "another process keeps the folder's lock" in caplog.text
    os.close(stopped)
    assert spool.put(entry(2, size=10_000))
    assert len(list(tmp_path.glob("*.open"))) == 1, "the segment has gone on"
    assert drain(spool) == [0, 2]


@pytest.mark.parametrize("bytes_max", [MEBI, 100 * MEBI, 1024 * MEBI])
def test_what_is_held_back_is_never_less_than_there_is_and_never_much_more(bytes_max: int) -> None:
    one = Directory(Path("nowhere"), bytes_max)
    sizes = [1, 100, 16_384, 16_385, MEBI - 1, MEBI, MEBI + 1, one.segment_bytes, 50 * MEBI]
    for size in sizes:
        reserved = one.reserved_for(size)
        assert size <= reserved <= size + max(16 * 1024, min(size, MEBI))
        assert one.reserved_for(reserved) == reserved
