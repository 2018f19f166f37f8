"""Reads the sampling policy again while the worker runs: on SIGHUP, and when its file changes."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from spanferry_worker.errors import SettingsError
from spanferry_worker.runtime.parts import Parts
from spanferry_worker.runtime.wake import wait_for_event
from spanferry_worker.settings import SampleSettings, Settings
from spanferry_worker.telemetry import LogEvent

__all__ = ["PolicyFile", "SettingsSource"]

_log = logging.getLogger("spanferry.sample")
_LOOK_S: Final = 1.0
_AT_START: Final = ("fleet_topic", "dropped_topic", "remembered_bytes_max")
"""Of `[sample]`, what counts as it was when the worker started."""


class SettingsSource(NamedTuple):
    """Where the settings came from, to get them again."""

    load: Callable[[], Settings]
    """Raises SettingsError."""
    path: Path | None
    """The file that is watched."""


class PolicyFile:
    """A bad file changes nothing, and is said."""

    def __init__(
        self,
        source: SettingsSource,
        parts: Parts,
        settings: Settings,
        use: Callable[[SampleSettings], None],
    ) -> None:
        self._source = source
        self._loads = parts.metrics.sample.loads
        self._settings = settings
        self._use = use
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Have it read again soon."""
        self._asked.set()

    async def run(self) -> None:
        """Read it when it has changed, or when asked; for ever."""
        path = self._source.path
        seen = await asyncio.to_thread(_state, path)
        while True:
            asked = await wait_for_event(self._asked, None if path is None else _LOOK_S)
            self._asked.clear()
            state = await asyncio.to_thread(_state, path)
            if asked or state != seen:
                seen = state
                await self.reload()

    async def reload(self) -> None:
        """Use the policy as it is given now."""
        try:
            settings = await asyncio.to_thread(self._source.load)
        except SettingsError as error:
            self._loads.labels("refused").inc()
            _log.error(
                "sampling policy not loaded, the old one stays: %s",
                error,
                extra=LogEvent.SAMPLE_POLICY_REFUSED(),
            )
            return
        rest = msgspec.structs.replace(settings, sample=self._settings.sample)
        if rest != self._settings:
            _log.warning(
                "only [sample] is read again; what else has changed needs a restart",
                extra=LogEvent.SAMPLE_RESTART(),
            )
        for name in _AT_START:
            if getattr(settings.sample, name) != getattr(self._settings.sample, name):
                _log.warning("sample.%s needs a restart", name, extra=LogEvent.SAMPLE_RESTART())
        if settings.sample == self._settings.sample:
            self._loads.labels("unchanged").inc()
            _log.info(
                "sampling policy read again: nothing has changed", extra=LogEvent.SAMPLE_POLICY()
            )
            return
        self._settings = msgspec.structs.replace(self._settings, sample=settings.sample)
        self._use(settings.sample)
        self._loads.labels("loaded").inc()
        rules = [rule.name for rule in settings.sample.in_force]
        _log.info("sampling policy loaded", extra=LogEvent.SAMPLE_POLICY(rules=rules))


def _state(path: Path | None) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced; None where it is not there."""
    if path is None:
        return None
    try:
        # A ConfigMap's file is a link that is turned over.
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
