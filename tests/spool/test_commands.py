"""`spanferry spool status | replay | drop` on what processes that are gone have left, and others use."""

import os
import time
from argparse import ArgumentParser
from pathlib import Path

import msgspec
import pytest

from spanferry.spool import cli
from spanferry.spool.cli import Status
from spanferry.spool.segments import HEADER
from spanferry.spool.spool import Spool
from tests.services.process import free_port
from tests.spool.made import drain, entry, spool_in


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the app has it. A password that is wrong here concerns nobody but `replay`."""
    monkeypatch.setenv("SPANFERRY_SPOOL_DIR", str(tmp_path))
    monkeypatch.setenv("SPANFERRY_SASL_PASSWORD_FILE", "/nowhere")


def spool(*words: str) -> int:
    parser = ArgumentParser()
    cli.add_arguments(parser)
    return cli.run(parser.parse_args(words))


def left_behind(folder: Path, *numbers: int) -> Path:
    """By a process that is gone: its segment."""
    gone = spool_in(folder)
    before = set(folder.glob("*.seg"))
    for number in numbers:
        assert gone.put(entry(number, size=1_000))
    gone.close()
    (made,) = set(folder.glob("*.seg")) - before
    return made


def files(folder: Path) -> list[str]:
    return sorted(one.suffix for one in folder.iterdir() if one.suffix != ".lock")


@pytest.fixture
def living(tmp_path: Path) -> Spool:
    """Ours, in use."""
    one = spool_in(tmp_path)
    assert one.put(entry(100))
    return one


def test_status_says_who_has_what(
    tmp_path: Path, living: Spool, capsys: pytest.CaptureFixture[str]
) -> None:
    left_behind(tmp_path, 1, 2, 3)
    assert spool("status", "--json") == 0
    found = msgspec.json.decode(capsys.readouterr().out, type=Status)
    assert {(one.pid, one.entries, one.traces) for one in found.owners} == {
        (os.getpid(), 1, 1),
        (None, 3, 3),
    }
    assert found.bytes == sum(one.stat().st_size for one in tmp_path.glob("*-*"))
    assert spool("status") == 0
    said = capsys.readouterr().out
    assert "4 parcels wait" in said
    assert f"pid {os.getpid()}" in said
    assert "gone" in said


def test_drop_deletes_what_nobody_owns_and_only_when_told(
    tmp_path: Path, living: Spool, capsys: pytest.CaptureFixture[str]
) -> None:
    left_behind(tmp_path, 1, 2, 3)
    assert spool("drop") == 0
    assert "1 segments" in capsys.readouterr().out
    assert files(tmp_path) == [".open", ".seg"]
    assert spool("drop", "--yes") == 0
    assert "deleted" in capsys.readouterr().out
    assert files(tmp_path) == [".open"]
    assert len(list(tmp_path.glob("*.lock"))) == 2, "the room's and the living one's"
    assert drain(living) == [100]


def test_drop_with_what_is_old_leaves_the_rest_to_be_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, young = left_behind(tmp_path, 1), left_behind(tmp_path, 2)
    created_ms, rest = old.name.split("-", 1)
    before_ms = int(created_ms) - 3 * 3_600_000
    old.rename(old.with_name(f"{before_ms:013d}-{rest}"))
    assert spool("drop", "--older-than-h", "2", "--yes") == 0
    assert "1 segments" in capsys.readouterr().out
    assert list(tmp_path.glob("*.seg")) == [young]
    heir = spool_in(tmp_path)
    heir._adopted_at_s = -1e9
    heir.tick()
    assert drain(heir) == [2]


def test_damaged_segments_count_until_they_are_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = left_behind(tmp_path, 1, 2)
    content = bytearray(damaged.read_bytes())
    content[len(HEADER) + 50] ^= 0xFF
    damaged.write_bytes(content)
    heir = spool_in(tmp_path)
    heir._adopted_at_s = -1e9
    heir.tick()
    assert drain(heir) == [2]
    heir.close()
    later = left_behind(tmp_path, 3)
    assert spool("status", "--json") == 0
    found = msgspec.json.decode(capsys.readouterr().out, type=Status)
    assert sum(one.corrupt_bytes for one in found.owners) > 1_000
    assert spool("drop", "--corrupt", "--yes") == 0
    assert files(tmp_path) == [".seg"]
    assert list(tmp_path.glob("*.seg")) == [later]


def test_a_replay_that_reaches_nobody_says_so_and_keeps_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SPANFERRY_SASL_PASSWORD_FILE")
    monkeypatch.setenv("SPANFERRY_EXIT_TIMEOUT_S", "0.2")
    left_behind(tmp_path, 1, 2, 3)
    nobody = f"127.0.0.1:{free_port()}"
    begun_s = time.monotonic()
    assert spool("replay", "--bootstrap-servers", nobody, "--timeout-s", "1") == 1
    assert time.monotonic() - begun_s < 20
    said = capsys.readouterr()
    assert "0 parcels sent" in said.out
    assert "nothing listens on" in said.err
    heir = spool_in(tmp_path)
    heir._adopted_at_s = -1e9
    heir.tick()
    assert drain(heir) == [1, 2, 3]


@pytest.mark.parametrize("verb", ["status", "drop", "replay"])
def test_a_folder_that_is_not_there_is_said(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPANFERRY_BOOTSTRAP_SERVERS", "none:1")
    monkeypatch.delenv("SPANFERRY_SASL_PASSWORD_FILE")
    assert spool(verb, "--dir", "/nowhere") == 3
    assert "/nowhere is not a folder" in capsys.readouterr().err
    monkeypatch.delenv("SPANFERRY_SPOOL_DIR")
    assert spool(verb) == 3
    assert "set SPANFERRY_SPOOL_DIR" in capsys.readouterr().err
