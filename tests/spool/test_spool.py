"""The spool: bounded, in order, shared by processes, through damage and full disks."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from spanferry.spool.directory import Directory
from spanferry.spool.segments import HEADER, read
from tests.spool.made import drain, entry, spool_in


def _files(path: Path) -> list[str]:
    return sorted(
        one.suffix for one in path.iterdir() if one.suffix in {".open", ".seg", ".corrupt", ".done"}
    )


def _adopt(spool: object) -> None:
    spool._adopted_at_s = -1e9
    spool.tick()


def test_what_was_put_comes_back_in_order_and_is_gone_when_settled(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    assert all(spool.put(entry(number)) for number in range(100))
    assert drain(spool) == list(range(100))
    assert _files(tmp_path) == []
    assert spool.backlog.is_empty


def test_what_is_not_settled_comes_again_to_the_next_process(tmp_path: Path) -> None:
    first = spool_in(tmp_path)
    for number in range(10):
        first.put(entry(number))
    for _ in range(4):
        found = first.next()
        assert found is not None
        found[0].settle()
    first.next()  # given out, never settled
    first.close()
    second = spool_in(tmp_path)
    _adopt(second)
    assert drain(second) == [4, 5, 6, 7, 8, 9]
    second.close()
    assert [one.name for one in tmp_path.iterdir()] == ["room.lock"]


def test_a_living_process_keeps_what_is_its_own(tmp_path: Path) -> None:
    first, second = spool_in(tmp_path), spool_in(tmp_path)
    first.put(entry(1))
    _adopt(second)
    assert drain(second) == []
    assert drain(first) == [1]


_CHILD = """
import os, sys
from pathlib import Path
from tests.spool.made import entry, spool_in
spool = spool_in(Path(sys.argv[1]), spool_mode=sys.argv[2])
for number in range(50):
    if sys.argv[2] == "always":
        ticket = spool.keep(entry(number))
        if number < 20: ticket.settle()
    else:
        spool.put(entry(number))
spool._synced_at_s = -1e9
spool.tick()
os.write(1, b"x")
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(("mode", "expected"), [("overflow", range(50)), ("always", range(20, 50))])
def test_kill_9_loses_nothing_that_was_written(tmp_path: Path, mode: str, expected: range) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path), mode], stdout=subprocess.PIPE, check=False
    )
    assert ended.returncode == -9
    assert ended.stdout == b"x"
    heir = spool_in(tmp_path)
    _adopt(heir)
    assert drain(heir) == list(expected)
    assert heir.counted().corrupt_bytes == 0


def test_kept_entries_are_not_read_back_by_who_has_them_in_memory(tmp_path: Path) -> None:
    spool = spool_in(tmp_path, spool_mode="always")
    tickets = [spool.keep(entry(number)) for number in range(10)]
    assert drain(spool) == []
    for ticket in tickets:
        assert ticket is not None
        ticket.settle()
    spool.close()
    assert [one.name for one in tmp_path.iterdir()] == ["room.lock"]


def test_a_forked_child_lets_go_of_its_parent_s_locks(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    spool.put(entry(1))
    child = os.fork()
    if child == 0:
        spool.forget()
        time.sleep(30)
        os._exit(0)
    try:
        spool._put.forget()
        spool._owner.forget()
        deadline = time.monotonic() + 150
        heir = spool_in(tmp_path)
        while not (numbers := drain(heir)) and time.monotonic() < deadline:
            _adopt(heir)
        assert numbers == [1]
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_the_folder_stays_within_its_bytes_whoever_writes(tmp_path: Path) -> None:
    bytes_max = 2_000_000
    spools = [spool_in(tmp_path, spool_bytes=bytes_max) for _ in range(3)]
    taken = 0
    for number in range(600):
        taken += spools[number % 3].put(entry(number, size=10_000))
    used = sum(one.stat().st_size for one in tmp_path.iterdir())
    assert used <= bytes_max
    assert taken * 10_000 > bytes_max * 0.6
    assert all(spool.counted().refused for spool in spools)
    assert sum(len(drain(spool)) for spool in spools) == taken


def test_what_the_folder_holds_is_counted_whoever_wrote_it(tmp_path: Path) -> None:
    spools = [spool_in(tmp_path, spool_bytes=2_000_000) for _ in range(2)]
    for number in range(40):
        assert spools[0].put(entry(number, size=10_000))
    _adopt(spools[1])
    assert spools[1].counted().folder_bytes == spools[0].directory.used_bytes() > 400_000
    drain(spools[0])
    _adopt(spools[1])
    assert spools[1].counted().folder_bytes == 0


def test_room_comes_back_when_entries_are_settled(tmp_path: Path) -> None:
    spool = spool_in(tmp_path, spool_bytes=1_000_000)
    while spool.put(entry(1, size=10_000)):
        pass
    assert not spool.ready
    drain(spool)
    spool.health._retry_at_s = 0
    assert spool.put(entry(2, size=10_000))


def test_an_entry_above_a_segment_has_one_of_its_own(tmp_path: Path) -> None:
    spool = spool_in(tmp_path, spool_bytes=4_000_000)
    large = spool.directory.segment_bytes * 3
    for number, size in ((1, 10), (2, large), (3, 10)):
        assert spool.put(entry(number, size))
    assert drain(spool) == [1, 2, 3]


def test_damage_costs_one_entry_and_is_put_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = spool_in(tmp_path)
    for number in range(10):
        spool.put(entry(number, size=1000))
    spool.close()
    (segment,) = tmp_path.glob("*.seg")
    content = bytearray(segment.read_bytes())
    content[len(HEADER) + 3 * 1100] ^= 0xFF
    segment.write_bytes(content)
    heir = spool_in(tmp_path)
    _adopt(heir)
    numbers = drain(heir)
    assert len(numbers) == 9
    assert heir.counted().corrupt_bytes > 1000
    assert _files(tmp_path) == [".corrupt"]
    assert "damaged at byte" in caplog.text
    heir.close()
    last = spool_in(tmp_path)
    _adopt(last)
    assert drain(last) == []


def test_a_damaged_header_costs_no_entry(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = spool_in(tmp_path)
    for number in range(10):
        spool.put(entry(number))
    spool.close()
    (segment,) = tmp_path.glob("*.seg")
    segment.write_bytes(b"?" * len(HEADER) + segment.read_bytes()[len(HEADER) :])
    heir = spool_in(tmp_path)
    _adopt(heir)
    assert drain(heir) == list(range(10))
    assert heir.counted().corrupt_bytes == len(HEADER)
    assert _files(tmp_path) == [".corrupt"]
    assert "damaged at byte 0" in caplog.text


def test_heirs_that_come_at_once_share_what_there_is(tmp_path: Path) -> None:
    for owner in range(20):
        gone = spool_in(tmp_path)
        for number in range(5):
            gone.put(entry(owner * 5 + number))
        gone.close()
    heirs = [spool_in(tmp_path) for _ in range(4)]
    ready = threading.Barrier(len(heirs))
    found: list[list[int]] = [[] for _ in heirs]

    def inherit(which: int) -> None:
        ready.wait()
        _adopt(heirs[which])
        found[which] = drain(heirs[which])

    threads = [threading.Thread(target=inherit, args=(which,)) for which in range(len(heirs))]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(number for numbers in found for number in numbers) == list(range(100))
    for heir in heirs:
        heir.close()
    assert [one.name for one in tmp_path.iterdir()] == ["room.lock"]


def test_a_torn_end_is_no_damage(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    for number in range(3):
        spool.put(entry(number, size=1000))
    (segment,) = tmp_path.glob("*.open")
    os.truncate(segment, segment.stat().st_size - 500)
    spool.forget()
    heir = spool_in(tmp_path)
    _adopt(heir)
    assert drain(heir) == [0, 1]
    assert heir.counted().corrupt_bytes == 0
    assert _files(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_said_and_takes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    spool = spool_in(tmp_path / "file" / "spool")
    assert not spool.ready
    assert not spool.put(entry(1))
    assert "nothing can be spooled" in caplog.text


def test_a_write_that_fails_leaves_the_segment_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = spool_in(tmp_path)
    spool.put(entry(0))
    real = os.writev

    def half(descriptor: int, parts: list[bytes]) -> int:
        os.write(descriptor, b"".join(parts)[:30])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "writev", half)
    assert not spool.put(entry(1))
    assert not spool.ready
    monkeypatch.setattr(os, "writev", real)
    assert spool.put(entry(2))
    assert drain(spool) == [0, 2]


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    spool = spool_in(tmp_path / "made")
    spool.put(entry(1))
    assert (tmp_path / "made").stat().st_mode & 0o077 == 0
    assert all(one.stat().st_mode & 0o077 == 0 for one in (tmp_path / "made").iterdir())


def test_done_marks_that_are_torn_are_left_out(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    for number in range(3):
        spool.put(entry(number))
    found = spool.next()
    assert found is not None
    found[0].settle()
    spool.close()
    (done,) = tmp_path.glob("*.done")
    with done.open("ab") as file:
        file.write(b"\x01\x02\x03")
    (segment,) = tmp_path.glob("*.seg")
    assert len(list(read(segment))) == 2


def test_names_that_are_not_ours_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.seg").write_text("mine")
    (tmp_path / "a-b-c.seg").write_text("mine")
    assert Directory(tmp_path, 10**9).segments() == []


@pytest.mark.parametrize(
    ("policy", "meanwhile", "later"),
    [("never", 0, 0), ("interval", 3, 4), ("always", 6, 6)],
    ids=["never", "interval", "always"],
)
@pytest.mark.parametrize("mode", ["overflow", "always"])
def test_the_disk_is_waited_for_as_the_policy_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
    meanwhile: int,
    later: int,
    mode: str,
) -> None:
    """Six looks, half a second apart, each after an entry; where nothing is new nobody waits."""
    spool = spool_in(tmp_path, spool_fsync=policy, spool_mode=mode)
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    begun_s = time.monotonic() + 150
    for look in range(6):
        assert spool.keep(entry(look)) if mode == "always" else spool.put(entry(look))
        monkeypatch.setattr(time, "monotonic", lambda now=begun_s + look / 2: now)
        spool.tick()
    assert len(synced) == meanwhile
    for second in (10, 20):
        monkeypatch.setattr(time, "monotonic", lambda now=begun_s + second: now)
        spool.tick()
    assert len(synced) == later
