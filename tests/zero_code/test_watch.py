"""Seeing that a module was imported, and leaving no mark on it."""

import importlib
import importlib.resources
import importlib.util
import sys
from pathlib import Path

import pytest

from spanferry_start import watch


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "watched").mkdir()
    (tmp_path / "watched" / "__init__.py").write_text("ready = True\n")
    (tmp_path / "watched" / "part.py").write_text("")
    (tmp_path / "watched" / "broken.py").write_text("raise ImportError('half')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("watched", "watched.part", "watched.broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(watch, "_executed", set())


def test_it_is_called_once_the_module_is_ready_and_the_finder_leaves() -> None:
    seen: list[bool] = []
    watch.after_import("watched", lambda: seen.append(sys.modules["watched"].ready))
    assert importlib.util.find_spec("watched") is not None
    assert seen == []
    for _ in range(2):
        importlib.import_module("watched")
    assert seen == [True]
    assert watch._finder not in sys.meta_path


def test_the_module_has_its_own_loader() -> None:
    watch.after_import("watched", lambda: None)
    module = importlib.import_module("watched")
    assert module.__spec__ is not None
    assert type(module.__loader__) is type(module.__spec__.loader)
    assert "importlib" in type(module.__loader__).__module__
    assert (importlib.resources.files(module) / "part.py").is_file()


def test_a_module_within_a_package() -> None:
    seen: list[str] = []
    watch.after_import("watched.part", lambda: seen.append("part"))
    importlib.import_module("watched")
    assert seen == []
    importlib.import_module("watched.part")
    assert seen == ["part"]


def test_one_that_is_there_already() -> None:
    importlib.import_module("watched")
    seen: list[str] = []
    watch.after_import("watched", lambda: seen.append("now"))
    assert seen == ["now"]


def test_who_asks_while_it_is_told_is_answered_at_once() -> None:
    seen: list[str] = []

    def first() -> None:
        watch.after_import("watched", lambda: seen.append("second"))
        seen.append("first")

    watch.after_import("watched", first)
    importlib.import_module("watched")
    assert seen == ["second", "first"]


def test_an_import_that_fails_is_tried_again() -> None:
    seen: list[str] = []
    watch.after_import("watched.broken", lambda: seen.append("broken"))
    with pytest.raises(ImportError, match="half"):
        importlib.import_module("watched.broken")
    assert seen == []
    assert watch._finder in sys.meta_path


def test_forgotten() -> None:
    def never() -> None:
        raise AssertionError

    watch.after_import("watched", never)
    watch.after_import("watched", never)
    watch.forget("watched", never)
    assert watch._finder not in sys.meta_path
    importlib.import_module("watched")


@pytest.fixture(autouse=True)
def nothing_left_waiting(modules: None):
    yield
    watch._waiting.clear()
    watch._leave_if_done()
