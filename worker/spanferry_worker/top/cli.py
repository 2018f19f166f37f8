"""`spanferry top`."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import termios
import time
import tty
from collections.abc import Generator, Sequence
from datetime import datetime
from typing import Final

from rich.console import Console, RenderableType
from rich.live import Live

from spanferry_worker.arguments import add_settings_arguments, settings_from
from spanferry_worker.errors import SettingsError
from spanferry_worker.settings import HealthSettings
from spanferry_worker.telemetry import set_up_logging
from spanferry_worker.top.account import Account
from spanferry_worker.top.looking import Looker, base_url
from spanferry_worker.top.report import as_json
from spanferry_worker.top.view import picture

__all__ = ["add_arguments", "run"]

_NOBODY: Final = 1
_USAGE: Final = 2
_INTERVAL_MIN_S: Final = 0.2
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - what they mean to a client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See spanferry_worker.cli."""
    parser.description = (
        "Shows live what workers do: rates, lag, open traces, memory, sampling, errors; each process "
        "and all together. q or Ctrl-C leaves. Exit codes: 0; with --once 1 where no worker answers; "
        "2 wrong usage."
    )
    parser.add_argument(
        "--url",
        metavar="URL",
        dest="urls",
        action="append",
        default=[],
        help="host:port or http://… of a worker or a supervisor; may be repeated "
        "(default: health_host and health_port)",
    )
    parser.add_argument(
        "--interval", metavar="S", type=_interval, default=1.0, help="seconds between looks"
    )
    parser.add_argument("--once", action="store_true", help="look twice, print one picture, leave")
    parser.add_argument("--json", action="store_true", help="a JSON object a look instead")
    add_settings_arguments(parser, ("health_host", "health_port"))


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _INTERVAL_MIN_S <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: give seconds, from {_INTERVAL_MIN_S} on")
    return seconds


def run(args: argparse.Namespace) -> int:
    """Look until told to leave; the exit code."""
    settings = settings_from(args, os.environ)
    set_up_logging("text", "error")
    urls = _urls(args.urls, settings.health)
    console = Console(highlight=False)
    live = console.is_terminal and not console.is_dumb_terminal
    if not (args.once or args.json or live):
        sys.stderr.write("spanferry top: nothing can be drawn here: add --once or --json\n")
        return _USAGE
    top = _Top(urls, args, console)
    try:
        return asyncio.run(top.run())
    except KeyboardInterrupt:
        return 0


def _urls(given: Sequence[str], health: HealthSettings) -> list[str]:
    if given:
        return list(dict.fromkeys(map(base_url, given)))
    if not health.port:
        raise SettingsError("health.port is 0, so the port is not known: give --url host:port")
    return [base_url(f"{_EVERYWHERE.get(health.host, health.host)}:{health.port}")]


class _Top:
    """The loop around looking and showing."""

    def __init__(self, urls: Sequence[str], args: argparse.Namespace, console: Console) -> None:
        self._urls = urls
        self._args = args
        self._console = console
        self._account = Account()
        self._leave = asyncio.Event()

    async def run(self) -> int:
        """Until q, Ctrl-C or, with --once, the second look."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._leave.set)
        looker = Looker(self._urls, self._account)
        try:
            await looker.look()
            if self._args.once:
                await self._wait(self._args.interval)
                await looker.look()
                self._print()
                return 0 if any(one.counts for one in self._account.processes) else _NOBODY
            if self._args.json:
                await self._lines(looker)
            else:
                await self._live(looker)
            return 0
        finally:
            await looker.close()

    async def _wait(self, seconds: float) -> bool:
        """True when it is time to leave."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._leave.wait()
        return self._leave.is_set()

    async def _lines(self, looker: Looker) -> None:
        while not await self._wait(self._args.interval):
            await looker.look()
            self._print()

    async def _live(self, looker: Looker) -> None:
        with (
            _keys(self._leave),
            Live(console=self._console, screen=True, auto_refresh=False) as live,
        ):
            live.update(self._picture(), refresh=True)
            while not await self._wait(self._args.interval):
                await looker.look()
                live.update(self._picture(), refresh=True)

    def _print(self) -> None:
        if self._args.json:
            sys.stdout.write(as_json(self._account, time.time_ns() // 1_000_000))
            sys.stdout.flush()
        else:
            self._console.print(self._picture())

    def _picture(self) -> RenderableType:
        processes = self._account.processes
        ready = sum(process.state in {"ready", "paused"} for process in processes)
        where = self._urls[0].partition("://")[2]
        if len(self._urls) > 1:
            where = f"{len(self._urls)} addresses"
        title = f"spanferry top  {where}  {ready} of {len(processes)} ready"
        now = datetime.now().astimezone()
        note = f"{now:%H:%M:%S}" if self._args.once else f"{now:%H:%M:%S}  q leaves"
        return picture(
            self._account,
            title=title,
            note=note,
            console=self._console,
            whole=not self._console.is_terminal or self._args.once,
        )


@contextlib.contextmanager
def _keys(leave: asyncio.Event) -> Generator[None]:
    """Sets the event when q is pressed, where somebody can press keys."""
    stdin = sys.stdin
    if not stdin.isatty():
        yield
        return
    number = stdin.fileno()
    before = termios.tcgetattr(number)
    loop = asyncio.get_running_loop()

    def pressed() -> None:
        if b"q" in os.read(number, 64).lower():
            leave.set()

    tty.setcbreak(number)
    loop.add_reader(number, pressed)
    try:
        yield
    finally:
        loop.remove_reader(number)
        termios.tcsetattr(number, termios.TCSADRAIN, before)
