"""What hands do to the folder while processes use it, and where a process goes meanwhile."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spanferry import log, outlet
from spanferry.client import disable, enable, stats
from spanferry.spool import segments
from spanferry.spool.backlog import Backlog
from spanferry.spool.directory import Directory
from spanferry.spool.spool import Spool
from tests.producer.traffic import a_trace
from tests.services.process import free_port
from tests.spool.made import drain, entry, spool_in

WAIT_S = 90.0


@pytest.fixture(autouse=True)
def nothing_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_said_at_s", {})


def adopt(spool: Spool) -> None:
    spool._adopted_at_s = -1e9
    spool.tick()


def empty(folder: Path) -> None:
    """rm -rf folder/*"""
    for one in folder.iterdir():
        one.unlink()


@pytest.mark.parametrize("remove", [empty, shutil.rmtree], ids=["emptied", "removed"])
@pytest.mark.parametrize("mode", ["overflow", "always"])
def test_who_removes_everything_loses_that_and_nothing_that_comes_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, remove: Callable[[Path], None], mode: str
) -> None:
    """The owner's lock is gone too: a neighbour would take its new files for nobody's."""
    folder = tmp_path / "spool"
    spool = spool_in(folder, spool_mode=mode)
    spool.put(entry(1))
    kept = spool.keep(entry(2))
    remove(folder)
    spool.tick()
    spool.tick()
    assert spool.ready
    assert spool.put(entry(3))
    later = spool.keep(entry(4))
    neighbour = spool_in(folder)
    adopt(neighbour)
    assert drain(neighbour) == [], "it has taken what a living process writes"
    assert drain(spool) == [3]
    assert kept is not None
    assert later is not None
    for ticket in [kept] * 100 + [later]:
        ticket.settle()
    spool.close()
    neighbour.close()
    assert [one.name for one in folder.iterdir()] == ["room.lock"]
    assert caplog.text.count("somebody has removed files") == 1
    assert "corrupt" not in caplog.text


def test_who_removes_the_lock_alone_loses_nothing(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    for number in range(3):
        spool.put(entry(number))
    found = spool.next()
    assert found is not None
    found[0].settle()
    for lock in tmp_path.glob("*.lock"):
        lock.unlink()
    spool.tick()
    assert spool.put(entry(3))
    adopt(spool)
    assert sorted(drain(spool)) == [1, 2, 3]
    spool.close()
    assert [one.name for one in tmp_path.iterdir()] == ["room.lock"]


def test_a_folder_with_a_short_name_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers go to another folder once they have started."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    spool = spool_in(Path("spool"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert spool.put(entry(1))
    assert drain(spool) == [1]
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("place", "name"),
    [(segments.Writer, "append"), (Directory, "used_bytes"), (Backlog, "adopt")],
)
def test_an_error_that_nobody_has_thought_of_does_not_end_the_spooling(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    place: type,
    name: str,
) -> None:
    real = getattr(place, name)
    failures = []

    def fails_at_first(*arguments: object) -> object:
        if not failures:
            failures.append(1)
            raise ValueError("what is that?")
        return real(*arguments)

    monkeypatch.setattr(place, name, fails_at_first)
    enable(
        bootstrap_servers=f"127.0.0.1:{free_port()}",
        spool_dir=str(tmp_path),
        exit_timeout_s=0.1,
        collect_environment=False,
        mlflow=False,
    )
    try:
        current = outlet.current()
        assert current is not None
        for _ in range(20):
            current.put(a_trace())
        deadline_s = time.monotonic() + WAIT_S
        while stats().traces_spooled < 20 and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert stats().traces_spooled == 20
        assert failures
        assert caplog.text.count("nothing can be spooled") == 1
    finally:
        disable()
