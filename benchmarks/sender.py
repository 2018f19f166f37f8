"""What the sender's thread takes of an app: CPU of a trace, by how often it looks into the buffer.

    python -m benchmarks.sender           a table, in about 5 minutes
    python -m benchmarks.sender --quick   in one; figures not to be quoted

Method. A real Kafka of one broker and a topic of six partitions. A fresh process for every cell makes
traces of five spans and 10 KB at a pace; what its CPU clock shows beyond that of the thread that makes
them is the sender's. All values of `linger_s` come in turns; the median over the rounds is shown.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import spanferry
from benchmarks.payloads import TracePayload, make_payload
from benchmarks.recorders import Recorder, fluent
from tests.services.kafka import KafkaServer

__all__ = ["main", "measure"]

TOPIC = "spanferry-traces"
PARTITIONS = 6
LINGERS_S = (0.025, 0.1, 0.25, 0.5)
RATES = (40, 150, 700)
WARM_UP_S = 2.0
_PAYLOADS = 64
_ROOT = Path(__file__).parent.parent


def measure(bootstrap_servers: str, linger_s: float, rate: int, seconds: float) -> float:
    """Microseconds of CPU that this process spends per trace beside the thread that makes them."""
    spanferry.enable(
        bootstrap_servers=bootstrap_servers, topic=TOPIC, linger_s=linger_s, mlflow=False
    )
    record = fluent(spanferry.start_span, spanferry.trace)["with"]
    payloads = [make_payload("chat", 10_000, seed) for seed in range(_PAYLOADS)]
    _paced(record, payloads, rate, WARM_UP_S)
    aside_ns = time.process_time_ns() - time.thread_time_ns()
    count = _paced(record, payloads, rate, seconds)
    return (time.process_time_ns() - time.thread_time_ns() - aside_ns) / count / 1000


def _paced(record: Recorder, payloads: list[TracePayload], rate: int, seconds: float) -> int:
    start = time.perf_counter()
    count = int(rate * seconds)
    for number in range(count):
        time.sleep(max(0.0, start + number / rate - time.perf_counter()))
        record(payloads[number % len(payloads)])
    return count


def main(words: list[str] | None = None) -> None:
    """Measure all cells, and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cell", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.cell:
        servers, linger_s, rate, seconds = options.cell
        print(measure(servers, float(linger_s), int(rate), float(seconds)))
        return
    rounds, seconds = (1, 2.0) if options.quick else (5, 5.0)
    found: dict[tuple[int, float], list[float]] = {}
    with KafkaServer(for_load=True) as kafka:
        servers = kafka.bootstrap_servers
        _run("spanferry_worker", "topics", "create", "--topic", TOPIC, "--partitions", str(PARTITIONS),
             "--bootstrap-servers", servers)  # fmt: skip
        for _ in range(rounds):
            for rate in RATES:
                for linger_s in LINGERS_S:
                    cell = map(str, (servers, linger_s, rate, seconds))
                    said = _run("benchmarks.sender", "--cell", *cell)
                    found.setdefault((rate, linger_s), []).append(float(said))
    print("| traces/s | " + " | ".join(f"linger_s {one:g}" for one in LINGERS_S) + " |")
    print("|---|" + "---|" * len(LINGERS_S))
    for rate in RATES:
        cells = [found[rate, one] for one in LINGERS_S]
        print(f"| {rate} | " + " | ".join(map(_shown, cells)) + " |")


def _shown(cell: list[float]) -> str:
    return f"{statistics.median(cell):.0f} us ({min(cell):.0f}-{max(cell):.0f})"


def _run(module: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{module} {' '.join(words)} failed:\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
