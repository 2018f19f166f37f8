"""A real MariaDB on a free port of 127.0.0.1."""

import itertools
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pymysql

from tests.kafka_days.certificates import Authority
from tests.services.mariadb_programs import Programs, programs
from tests.services.process import GuardedProcess, ServiceError, free_port
from tests.services.service import Service

__all__ = ["MariaDbServer"]

# Nothing here outlives a test run, so durability would only cost time.
NOT_DURABLE = [
    "--innodb-flush-log-at-trx-commit=2",  # a killed process loses nothing
    "--innodb-flush-method=nosync",
    "--innodb-doublewrite=0",
    "--innodb-buffer-pool-size=48M",
    "--innodb-log-file-size=16M",
    "--innodb-log-buffer-size=2M",
    "--innodb-file-per-table=0",
    "--innodb-stats-persistent=0",
]
ROOT = """
INSERT INTO global_priv VALUES ('127.0.0.1', 'root', '{
  "access": 18446744073709551615, "plugin": "mysql_native_password", "authentication_string": ""
}');
"""


class MariaDbServer(Service):
    """With `durable` it syncs to disk as in production, which is what a benchmark wants.

    `options` are further ones of mariadbd's.
    """

    name: ClassVar[str] = "MariaDB"

    def __init__(self, *, durable: bool = False, options: Sequence[str] = ()) -> None:
        super().__init__()
        self._options = [*([] if durable else NOT_DURABLE), *options]
        self._port = 0
        self._numbers = itertools.count(1)
        self.ca = Path()
        """The certificate of whom its own certificate is from; set when it runs."""

    def new_database(self) -> str:
        """Create an empty database and return its SQLAlchemy URL."""
        name = f"db{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        return self.uri(name)

    def uri(self, database: str) -> str:
        """The SQLAlchemy URL of a database, for root, who has no password."""
        return f"mysql+pymysql://root@127.0.0.1:{self._port}/{database}"

    def execute(self, statement: str) -> Sequence[Sequence[Any]]:
        """Run one statement as root: its rows."""
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()

    def kill(self) -> None:
        """End it as a crash would; start() brings it back with what was committed."""
        self._own("kill").kill()

    def _connect(self) -> "pymysql.Connection[Any]":
        return pymysql.connect(
            host="127.0.0.1", port=self._port, user="root", connect_timeout=5, autocommit=True
        )

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except pymysql.OperationalError:
            return False
        return True

    def _prepare(self, folder: Path) -> GuardedProcess:
        """Choose a port and make the system's tables."""
        found = programs()
        common = [*found.options, f"--datadir={folder}/data", f"--tmpdir={folder}", *self._options]
        if os.geteuid() == 0:
            common.append("--user=root")
        (folder / "data").mkdir()
        _bootstrap(found, common)
        self._port = free_port()
        authority = Authority(folder)
        self.ca = authority.ca
        certificate, key = authority.issue("server")
        return GuardedProcess(
            [
                *[found.server, *common, f"--port={self._port}", "--bind-address=127.0.0.1"],
                *[f"--socket={folder}/mariadb.sock", f"--pid-file={folder}/mariadb.pid"],
                *[f"--ssl-ca={self.ca}", f"--ssl-cert={certificate}", f"--ssl-key={key}"],
                *["--skip-name-resolve", "--max-connections=200", "--skip-log-bin"],
            ],
            log=folder / "mariadb.log",
            env=found.env,
        )


def _bootstrap(found: Programs, options: Sequence[str]) -> None:
    """What mariadb-install-db does, less its help texts and its users but root."""
    sql = ["CREATE DATABASE mysql;", "USE mysql;", "SET @auth_root_socket=NULL;"]
    sql += [next(found.share.glob("m*_system_tables.sql")).read_text(), ROOT]
    made = subprocess.run(
        [found.server, *options, "--bootstrap", "--skip-networking", "--log-warnings=0"],
        input="\n".join(sql),
        env={**os.environ, **found.env},
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise ServiceError(f"MariaDB cannot make its tables\n{made.stdout}{made.stderr}")
