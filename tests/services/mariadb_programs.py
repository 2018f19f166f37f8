"""MariaDB's server, from the system or unpacked from Debian's packages: no root, nothing installed.

Unpacked it lies in the checkout's .cache folder, with the libraries that the system lacks.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.services.process import ServiceError

__all__ = ["Programs", "programs"]

CACHE = Path(__file__).parents[2] / ".cache"
PACKAGE = "mariadb-server-core"
SYSTEM_PLACES = ("/usr/sbin", "/usr/local/sbin", "/usr/libexec", "/usr/local/mysql/bin")
TIMEOUT_S = 300

HOW_TO_GET_IT = (
    "MariaDB's server is not here: install your system's mariadb-server package, or (Debian and "
    f"Ubuntu) make apt-get reach its packages, from which {PACKAGE} is unpacked into .cache"
)


class Programs(NamedTuple):
    """The server, and what it needs to run from where it is."""

    server: Path
    share: Path
    """Error messages, character sets, and the SQL of its own tables."""
    env: Mapping[str, str]

    @property
    def options(self) -> list[str]:
        """Before all others. It reads no configuration of the system's."""
        prefix = self.server.parent.parent
        return ["--no-defaults", f"--basedir={prefix}", f"--lc-messages-dir={self.share}"]


def programs() -> Programs:
    """Raises ServiceError, which says how to get them. Safe between processes."""
    found = shutil.which(
        "mariadbd", path=os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM_PLACES])
    )
    if found is not None:
        return _at(Path(found).resolve(), {})
    folder = CACHE / "mariadb"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "mariadb.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _unpack(folder)
    libraries = [str(path) for path in (folder / "usr" / "lib").glob("*-linux-*")]
    libraries += [str(path) for path in (folder / "lib").glob("*-linux-*")]
    return _at(
        folder / "usr" / "sbin" / "mariadbd", {"LD_LIBRARY_PATH": os.pathsep.join(libraries)}
    )


def _at(server: Path, env: Mapping[str, str]) -> Programs:
    tables = next(server.parent.parent.glob("share/m*/m*_system_tables.sql"), None)
    if tables is None:
        raise ServiceError(f"{server} lacks the SQL of its system tables. {HOW_TO_GET_IT}")
    return Programs(server, tables.parent, env)


def _unpack(folder: Path) -> None:
    """Fill the folder, which appears complete or not at all."""
    partial = CACHE / "mariadb.partial"
    shutil.rmtree(partial, ignore_errors=True)
    for name in ("archives/partial", "lists/partial", "root"):
        (partial / name).mkdir(parents=True)
    options = [f"Dir::Cache={partial}", "Debug::NoLocking=1", f"APT::Sandbox::User={_user()}"]
    own_lists = [*options, f"Dir::State::Lists={partial}/lists"]
    if not _download(options, partial):
        _apt(own_lists, "update")  # some source may be out of reach, and not be needed
        if not _download(own_lists, partial):
            raise ServiceError(f"apt-get cannot download {PACKAGE}. {HOW_TO_GET_IT}")
    for package in sorted((partial / "archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, partial / "root"], check=True)
    (partial / "root").rename(folder)
    shutil.rmtree(partial)


def _download(options: list[str], partial: Path) -> bool:
    """Whether the package, and those that it needs and the system lacks, are there."""
    done = _apt(options, "install", "--download-only", "--yes", "--no-install-recommends", PACKAGE)
    return done and any((partial / "archives").glob(f"{PACKAGE}_*.deb"))


def _apt(options: list[str], *arguments: str) -> bool:
    command = [
        "apt-get",
        "-qq",
        *[part for option in options for part in ("-o", option)],
        *arguments,
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise ServiceError(f"{HOW_TO_GET_IT} ({error})") from error
    return done.returncode == 0


def _user() -> str:
    """Whom apt-get downloads as: its own user need not reach this folder."""
    return "root" if os.geteuid() == 0 else ""
