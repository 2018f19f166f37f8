"""What Git says of the code that runs: its version, commit, branch and remote.

Every answer starts `git`, so this is for an app's start and for the sender's thread, never for the
request path. Nothing here raises. What is slow to import is imported where it is used: `import spanferry`
comes past here.
"""

import hashlib
import os
from typing import Final, TypeAlias

from spanferry.active_model import NAME_REFUSES
from spanferry.log import logger

__all__ = ["branch_of", "commit_of", "git_version", "has_git", "remote_of"]

Place: TypeAlias = str | os.PathLike[str] | None
"""A folder or a file inside a working tree; None is the working directory."""

_TIMEOUT_S: Final = 5.0
_HASH_CHARS: Final = 8

_SETTLED: Final = ("--no-optional-locks", "-c", "core.fsmonitor=false")
"""Takes no lock that a developer's own `git commit` could meet, and starts no daemon."""

_DIFF: Final = (
    "diff",
    "--no-color",
    "--no-ext-diff",
    "--no-textconv",
    "--no-relative",
    "--no-renames",
    "--no-indent-heuristic",
    "--diff-algorithm=myers",
    "--unified=3",
    "--inter-hunk-context=0",
    "--submodule=short",
    "-O/dev/null",
    "--full-index",
    "--src-prefix=a/",
    "--dst-prefix=b/",
    "HEAD",
    "--",
)
"""Staged and unstaged changes, the same bytes whatever the user has configured."""

_AS_MODEL_NAME: Final = str.maketrans(dict.fromkeys(NAME_REFUSES, "-"))


def git_version(path: Place = None) -> str | None:
    """The version of the code in a working tree, to name the active model by. For an app's start.

    `git-<branch>-<commit>` where all tracked files are as committed, else
    `git-<branch>-<commit>-dirty-<hash of the changes>`, so that the same changes give the same
    version. Commit and hash have 8 digits. On a detached HEAD the branch is the tag that names the
    commit, else `HEAD`. Characters that a LoggedModel's name cannot have (`/ : . % " '`) are `-`.

    Files that Git does not track are no part of the version, as in MLflow and `git describe
    --dirty`; the log says so where there are some. `path` is a folder or a file in the working tree
    (`__file__` will do), the working directory where it is left out. None, with the reason in the log,
    where there is no git, no working tree, no commit yet, or no answer within 5 s.
    """
    commit = commit_of(path)
    if not commit:
        reason = "no commit of a Git working tree is here" if has_git() else "git is not installed"
        logger.warning("git_version: %s, so there is no version", reason)
        return None
    changes = _run(path, *_DIFF)
    if changes is None:
        logger.warning("git_version: git could not compare the files, so there is no version")
        return None
    branch = branch_of(path) or _line(path, "describe", "--tags", "--exact-match", "HEAD") or "HEAD"
    version = f"git-{branch.translate(_AS_MODEL_NAME)}-{commit[:_HASH_CHARS]}"
    if changes:
        version += f"-dirty-{hashlib.sha256(changes).hexdigest()[:_HASH_CHARS]}"
    untracked = _line(path, "ls-files", "--others", "--exclude-standard", "--directory")
    if untracked:
        files = len(untracked.split("\n"))
        logger.info("git_version: %d paths that Git does not track are no part of it", files)
    return version


def has_git() -> bool:
    """Whether there is a git to ask."""
    from shutil import which  # noqa: PLC0415  as above

    return which("git") is not None


def commit_of(path: Place = None) -> str:
    """The commit that is checked out, whole; empty where there is none."""
    return _line(path, "rev-parse", "--verify", "--quiet", "HEAD")


def branch_of(path: Place = None) -> str:
    """The branch that is checked out; empty on a detached HEAD."""
    return _line(path, "symbolic-ref", "--quiet", "--short", "HEAD")


def remote_of(path: Place = None) -> str:
    """The first remote's address, without the credentials that it may carry; empty without one."""
    remotes = _line(path, "remote").split("\n")
    url = _line(path, "remote", "get-url", remotes[0]) if remotes[0] else ""
    try:
        return _without_credentials(url)
    except ValueError:
        return ""


def _without_credentials(url: str) -> str:
    from urllib.parse import urlsplit, urlunsplit  # noqa: PLC0415  as above

    parts = urlsplit(url)
    if not parts.scheme or "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _line(path: Place, *arguments: str) -> str:
    """What git answers, as text; empty where it has no answer."""
    answer = _run(path, *arguments)
    return "" if answer is None else answer.decode("utf-8", "replace").strip()


def _run(path: Place, *arguments: str) -> bytes | None:
    """What git answers at a place; None where it fails, is missing, or takes too long."""
    import subprocess  # noqa: PLC0415  as above
    from pathlib import Path  # noqa: PLC0415  as above

    try:
        folder = Path() if path is None else Path(path)
        done = subprocess.run(  # noqa: S603  fixed words, no shell
            ["git", *_SETTLED, *arguments],  # noqa: S607
            capture_output=True,
            check=False,
            cwd=folder.parent if folder.is_file() else folder,
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
        )
    except (OSError, ValueError, TypeError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
