"""What a served app says of itself between two blocks, and how it is set up by its environment."""

import importlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.sdk import Addresses
from benchmarks.sdks import SDKS
from benchmarks.serve.work import ChatReply, ChatRequest, Steps, answering

__all__ = ["Account", "Endpoint", "Setup"]

SETUP = "SPANFERRY_BENCH_SERVE"
"""The environment variable that holds a Setup."""


class Setup(msgspec.Struct):
    """Which way to trace, and where to."""

    tier: str
    addresses: Addresses
    imports: str = ""
    """A module that the app imports besides, though nothing uses it."""
    calls_model: bool = False
    """Over HTTP, which is what most of an LLM app's own time goes into."""


class Account(msgspec.Struct):
    """Of the process that serves."""

    pid: int
    answered: int
    """Requests whose work is done, and whose trace has ended."""
    cpu_ns: int
    """All threads, user and system."""
    rss_mb: float
    rss_max_mb: float
    counters: dict[str, Any]
    """What the SDK itself counts."""


class Endpoint:
    """The work of /chat, traced as the environment says; counts what it has done."""

    def __init__(self) -> None:
        setup = msgspec.json.decode(os.environ[SETUP], type=Setup)
        if setup.imports:
            importlib.import_module(setup.imports)
        self._sdk = SDKS[setup.tier]()
        start_span = self._sdk.start(setup.addresses)["span"]
        self._steps: Callable[[ChatRequest], Steps] = answering(start_span)
        self.model_url = setup.addresses.stub if setup.calls_model else ""
        """Where the model is called; empty where it is only waited for."""
        self._answered = 0
        self._counting = threading.Lock()

    def steps(self, request: ChatRequest) -> Steps:
        """One request; yields where the model is to be waited for."""
        reply: ChatReply = yield from self._steps(request)
        with self._counting:
            self._answered += 1
        return reply

    def flush(self) -> bool:
        """Wait until everything has left; False where that failed."""
        return self._sdk.flush(60.0)

    def account(self) -> bytes:
        """An Account as JSON."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        status = Path("/proc/self/status").read_text()  # ru_maxrss would begin with the parent's
        most = int(status.partition("VmHWM:")[2].split()[0])
        account = Account(
            pid=os.getpid(),
            answered=self._answered,
            cpu_ns=time.process_time_ns(),
            rss_mb=pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
            rss_max_mb=most * 1024 / 1e6,
            counters=self._sdk.counters(),
        )
        return msgspec.json.encode(account)
