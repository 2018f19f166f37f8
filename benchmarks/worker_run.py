"""From Kafka through real worker processes into a real PostgreSQL: traces a second."""

import subprocess
import sys
import time
from pathlib import Path

import psycopg

from benchmarks.stores_report import EndToEnd
from tests.services.kafka import KafkaServer
from tests.services.worker import SpanferryWorker

__all__ = ["run_worker"]

_ROOT = Path(__file__).parent.parent
_PARTITIONS = 6
_TIMEOUT_S = 900.0


def run_worker(uri: str, processes: int, traces: int) -> EndToEnd:
    """Fill a topic with traces of 10 KB, then let a worker store them."""
    topic = f"stores-{processes}"
    with KafkaServer(for_load=True) as kafka:
        kafka.create_topic(topic, _PARTITIONS)
        subprocess.run(
            [
                sys.executable,
                "-m",
                "benchmarks.worker_fill",
                kafka.bootstrap_servers,
                topic,
                str(traces),
            ],
            cwd=_ROOT,
            check=True,
        )
        worker = SpanferryWorker(
            bootstrap_servers=kafka.bootstrap_servers,
            topic=topic,
            tracking_uri=uri,
            options=(f"--processes={processes}",),
        )
        worker.start(ready=False)
        try:
            return _watch(uri.replace("+psycopg", ""), processes, traces)
        finally:
            worker.stop()


def _watch(uri: str, processes: int, traces: int) -> EndToEnd:
    end = time.monotonic() + _TIMEOUT_S
    first: tuple[float, int] | None = None
    stored, now = 0, time.monotonic()
    with psycopg.connect(uri, autocommit=True) as connection:
        while stored < traces and now < end:
            time.sleep(0.25)
            found = connection.execute("SELECT to_regclass('trace_info')").fetchone()
            if found is None or found[0] is None:
                continue
            counted = connection.execute("SELECT count(*) FROM trace_info").fetchone()
            stored, now = counted[0] if counted else 0, time.monotonic()
            if first is None and stored >= traces // 10:
                first = now, stored
    began_s, began = first or (now, 0)
    rate = (stored - began) / (now - began_s) if now > began_s else 0.0
    return EndToEnd(processes, traces, stored, round(rate, 1))
