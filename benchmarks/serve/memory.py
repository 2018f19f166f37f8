"""RSS of an app whose buffer is full, beside the same app untraced."""

import contextlib
import time

from benchmarks.sdk import Addresses
from benchmarks.serve.account import Setup
from benchmarks.serve.cases import CONNECTIONS
from benchmarks.serve.processes import App, Cores, Load
from benchmarks.serve.report import Memory
from tests.services.process import free_port

__all__ = ["full_buffer"]

_CHUNK_S = 1.0
_FILL_S_MAX = 240.0


def full_buffer(
    load: Load, cores: Cores, tiers: tuple[str, ...], buffer_bytes: int
) -> list[Memory]:
    """Fill the buffers of fresh apps for which there is no Kafka, until they drop."""
    with contextlib.ExitStack() as stack:
        addresses = Addresses(kafka=f"127.0.0.1:{free_port()}", topic="nowhere", stub="")
        size = {"SPANFERRY_BUFFER_BYTES": str(buffer_bytes)}

        def start(setup: Setup) -> App:
            return stack.enter_context(App("fastapi", setup, cores, size))

        pairs: list[tuple[App, App]] = []
        for tier in tiers:
            imports = "" if tier == "spanferry" else "mlflow"
            traced = start(Setup(tier, addresses))
            pairs.append((traced, start(Setup("untraced", addresses, imports=imports))))
        found: list[Memory] = []
        for traced, untraced in pairs:
            traced.wait_until_ready()
            untraced.wait_until_ready()
            found.append(_filled(load, traced, untraced))
        return found


def _filled(load: Load, traced: App, untraced: App) -> Memory:
    end = time.monotonic() + _FILL_S_MAX
    while time.monotonic() < end and not traced.account().counters["traces_dropped"]:
        load.closed(traced, _CHUNK_S, CONNECTIONS, own=True)
    load.closed(traced, _CHUNK_S, CONNECTIONS, own=True)
    full = traced.account()
    while time.monotonic() < end and untraced.account().answered < full.answered:
        load.closed(untraced, _CHUNK_S, CONNECTIONS, own=True)
    return Memory(
        tier=traced.tier,
        buffer_bytes=int(full.counters["buffer_bytes"]),
        buffered_bytes=int(full.counters["buffered_bytes"]),
        dropped=int(full.counters["traces_dropped"]),
        requests=full.answered,
        rss_mb=round(full.rss_max_mb, 1),
        untraced_mb=round(untraced.account().rss_max_mb, 1),
    )
