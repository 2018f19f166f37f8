"""An app's version by Git, in real working trees."""

import logging
import os
import re
import shutil
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.utils.validation import _validate_logged_model_name

import spanferry
from spanferry import git as git_module
from spanferry.git import remote_of


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One commit on the branch `trunk`. No configuration of the developer's reaches it."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    git(tmp_path, "init", "-b", "trunk")
    (tmp_path / "app.py").write_text("a = 1\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "part.py").write_text("b = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    return tmp_path


def version(place: Path) -> str:
    found = spanferry.git_version(place)
    assert found is not None
    _validate_logged_model_name(found)
    return found


def test_a_clean_tree_is_branch_and_commit(tree: Path) -> None:
    commit = git(tree, "rev-parse", "HEAD")
    assert version(tree) == f"git-trunk-{commit[:8]}"


def test_the_working_directory_is_the_default(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree / "package")
    assert spanferry.git_version() == version(tree)


@pytest.mark.parametrize("place", ["package", "package/part.py", "app.py"])
def test_any_place_in_the_tree_gives_the_same(tree: Path, place: str) -> None:
    (tree / "app.py").write_text("a = 2\n")
    git(tree, "config", "diff.relative", "true")
    assert version(tree / place) == version(tree)


def test_changes_are_told_apart_staged_or_not(tree: Path) -> None:
    clean = version(tree)
    (tree / "app.py").write_text("a = 2\n")
    changed = version(tree)
    assert re.fullmatch(rf"{clean}-dirty-[0-9a-f]{{8}}", changed)
    git(tree, "add", "app.py")
    assert version(tree) == changed
    (tree / "package" / "part.py").write_text("b = 2\n")
    assert version(tree) not in {clean, changed}
    git(tree, "checkout", "HEAD", "--", ".")
    assert version(tree) == clean


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: (tree / "app.py").unlink(),
        lambda tree: (tree / "app.py").chmod(0o755),
        lambda tree: (tree / "app.py").write_bytes(b"\x00\xff"),
        lambda tree: git(tree, "mv", "app.py", "application.py"),
        lambda tree: git(tree, "rm", "--cached", "app.py"),
    ],
    ids=["deleted", "mode", "binary", "renamed", "removed from the index"],
)
def test_every_kind_of_change_counts(tree: Path, change: Any) -> None:
    clean = version(tree)
    change(tree)
    assert version(tree).startswith(f"{clean}-dirty-")


def test_binary_files_are_told_apart_by_their_content(tree: Path) -> None:
    (tree / "app.py").write_bytes(b"\x00\xff")
    first = version(tree)
    (tree / "app.py").write_bytes(b"\x00\xfe")
    assert version(tree) != first


def test_a_touched_file_is_no_change(tree: Path) -> None:
    clean = version(tree)
    later = time.time() + 60
    os.utime(tree / "app.py", (later, later))
    assert version(tree) == clean


def test_untracked_files_are_told_in_the_log_and_no_part_of_it(
    tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clean = version(tree)
    (tree / ".gitignore").write_text("*.log\n")
    git(tree, "add", ".gitignore")
    git(tree, "commit", "-m", "ignore")
    ignoring = version(tree)
    with caplog.at_level(logging.INFO, logger="spanferry"):
        (tree / "ignored.log").write_text("")
        assert version(tree) == ignoring
        assert not caplog.records
        (tree / "new.py").write_text("c = 1\n")
        assert version(tree) == ignoring != clean
    assert "1 paths that Git does not track" in caplog.text
    git(tree, "add", "new.py")
    assert version(tree).startswith(f"{ignoring}-dirty-")


def test_the_hash_does_not_depend_on_what_the_user_configured(tree: Path) -> None:
    (tree / "app.py").rename(tree / "moved.py")
    (tree / "package" / "part.py").write_text("c = 1\n" * 9 + "b = 1\n")
    git(tree, "add", ".")
    plain = version(tree)
    (tree / "order").write_text("package/*\n")
    for key, value in [
        ("diff.noprefix", "true"),
        ("diff.mnemonicPrefix", "true"),
        ("color.ui", "always"),
        ("diff.external", "false"),
        ("core.abbrev", "5"),
        ("diff.context", "9"),
        ("diff.algorithm", "patience"),
        ("diff.renames", "copies"),
        ("diff.interHunkContext", "9"),
        ("diff.orderFile", str(tree / "order")),
    ]:
        git(tree, "config", key, value)
    assert version(tree) == plain


def test_names_are_such_that_mlflow_takes_them(tree: Path) -> None:
    git(tree, "checkout", "-b", "feature/refunds-2.0")
    assert version(tree).startswith("git-feature-refunds-2-0-")


def test_a_detached_head_is_named_by_its_tag_else_head(tree: Path) -> None:
    commit = git(tree, "rev-parse", "HEAD")
    git(tree, "checkout", "--detach")
    assert version(tree) == f"git-HEAD-{commit[:8]}"
    git(tree, "tag", "v1.4")
    assert version(tree) == f"git-v1-4-{commit[:8]}"


def test_outside_of_a_tree_there_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert spanferry.git_version(tmp_path) is None
    assert spanferry.git_version(tmp_path / "not there") is None
    assert spanferry.git_version("\0") is None
    assert spanferry.git_version(3) is None  # type: ignore[arg-type]
    assert "no commit of a Git working tree" in caplog.text


def test_before_the_first_commit_there_is_none(tmp_path: Path) -> None:
    git(tmp_path, "init")
    assert spanferry.git_version(tmp_path) is None


def test_without_git_there_is_none(
    tree: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "")
    assert spanferry.git_version(tree) is None
    assert "git is not installed" in caplog.text


def test_a_git_that_hangs_is_not_waited_for(
    tree: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The comparison may take long where files are many and far away."""
    slow = tree / "bin" / "git"
    slow.parent.mkdir()
    real = shutil.which("git")
    slow.write_text(f'#!/bin/sh\ncase "$*" in *" diff "*) exec sleep 30;; esac\nexec {real} "$@"\n')
    slow.chmod(slow.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(slow.parent), prepend=":")
    monkeypatch.setattr(git_module, "_TIMEOUT_S", 0.5)
    started = time.monotonic()
    assert spanferry.git_version(tree) is None
    assert time.monotonic() - started < 25
    assert "could not compare" in caplog.text


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://user:token@host/path", "https://host/path"),
        ("git@host:team/app.git", "git@host:team/app.git"),
        ("/srv/app.git", "/srv/app.git"),
        ("https://[broken", ""),
    ],
)
def test_a_remote_is_without_credentials(tree: Path, url: str, clean: str) -> None:
    git(tree, "config", "remote.origin.url", url)
    assert remote_of(tree) == clean
