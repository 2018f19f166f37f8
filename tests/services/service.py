"""What the real services of the tests have in common: their life, from a folder to its deletion."""

import abc
import shutil
import tempfile
from pathlib import Path
from typing import ClassVar, Self

from tests.services.process import GuardedProcess, ServiceError, wait_until_ready

__all__ = ["Service", "Startable"]


class Startable(abc.ABC):
    """Starts on entering, ends on leaving, and where the start fails."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abc.abstractmethod
    def start(self) -> None:
        """Start it; returns when it can be used."""

    @abc.abstractmethod
    def close(self) -> None:
        """End it, if it runs, and delete what it left."""


class Service(Startable):
    """Starts on entering, ends and deletes its data on leaving; stop() and start() keep both.

    A service says what it is called, how it is prepared and whether it answers.
    """

    name: ClassVar[str]
    """As error messages call it."""
    start_timeout_s: ClassVar[float] = 150.0

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._process: GuardedProcess | None = None

    def start(self) -> None:
        """Start it, or start it again; returns when it answers. Nothing happens if it runs."""
        if self._process is None:
            self._folder = Path(tempfile.mkdtemp(prefix=f"spanferry-{self.name.lower()}-"))
            self._process = self._prepare(self._folder)
        if not self._process.running:
            self._process.start()
            wait_until_ready(
                self._process, self._answers, name=self.name, timeout_s=self.start_timeout_s
            )

    def stop(self) -> None:
        """Shut it down in order."""
        self._own("stop").stop()

    def close(self) -> None:
        """End it, if it runs, and delete its data."""
        if self._process is not None:
            self._process.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = self._process = None

    @property
    def pid(self) -> int:
        """Of its process; 0 where it was not started by us."""
        return self._process.pid if self._process else 0

    def log_tail(self) -> str:
        """The end of its log."""
        return self._process.log_tail() if self._process else ""

    def _own(self, action: str) -> GuardedProcess:
        if self._process is None:
            raise ServiceError(f"cannot {action} {self.name}: it was not started")
        return self._process

    @abc.abstractmethod
    def _prepare(self, folder: Path) -> GuardedProcess:
        """The command, on a free port, with its data in a folder that is empty."""

    @abc.abstractmethod
    def _answers(self) -> bool:
        """Whether it can be used."""
