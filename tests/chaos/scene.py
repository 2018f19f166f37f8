"""Who is there: three brokers, PostgreSQL, three workers, producers with spools."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import msgspec

from tests.chaos.faults import Plan
from tests.chaos.journal import Life, last_number, read_life
from tests.chaos.producer import Order
from tests.chaos.traces import SAMPLED_TAG, STRIDE
from tests.services.kafka_cluster import KafkaCluster
from tests.services.postgres import PostgresServer
from tests.services.process import GuardedProcess, ServiceError, wait_until_ready
from tests.services.worker import SpanferryWorker
from tests.spool import small_disk

__all__ = ["Producer", "Scene"]

ROOT = Path(__file__).parents[2]
SMALL_DISK_BYTES = 8 * 1024 * 1024
PAGE_BYTES = 4096
WORKER_OPTIONS = (
    # A killed or frozen worker's partitions move after its session; 45 s by default.
    "--set=kafka.session_timeout_s=6",
    "--set=kafka.heartbeat_s=1",
    "--set=kafka.rebalance_timeout_s=30",
    "--set=assemble.idle_s=10",
    # A small worker: what it has read ahead when a partition goes is read again by the next one.
    "--set=consume.held_bytes_max=33554432",
    "--set=consume.revoke_flush_s=10",
    "--set=assemble.bytes_max=16777216",
    "--set=decode.chunk_bytes_max=16777216",
)
DROP_RULE = {"name": "chaos", "action": "drop", "tags": {SAMPLED_TAG: "*"}}
POOR_BUFFER_BYTES = 150_000
"""Some seconds' worth of traces."""
FINISH_S = 180.0


class Producer:
    """One app after another with the same spool; a killed one leaves it to the next."""

    def __init__(self, number: int, folder: Path, make: Callable[[int, str, str], Order]) -> None:
        """`make` gives the order of a life from its first number, its spool and its journal."""
        self.number = number
        self._folder = folder / f"producer-{number}"
        self._folder.mkdir()
        self._make = make
        self._disk = self._folder / "disk"
        self._disk.mkdir()
        self._journals: list[Path] = []
        self._process: GuardedProcess | None = None

    @property
    def spool(self) -> Path:
        """The folder that its lives share."""
        return self._disk / "spool"

    @property
    def process(self) -> GuardedProcess:
        """The life at present."""
        assert self._process is not None
        return self._process

    @property
    def next_number(self) -> int:
        """Of the trace that comes next; those below have been made, or begun."""
        for journal in reversed(self._journals):
            number = last_number(journal)
            if number is not None:
                return number + 1
        return self.number * STRIDE

    @property
    def made(self) -> int:
        """How many numbers are used up."""
        return self.next_number - self.number * STRIDE

    def start(self) -> None:
        """Another life; returns when it has made a trace. Raises ServiceError where it does not."""
        journal = self._folder / f"journal-{len(self._journals)}"
        order = self._make(self.next_number, str(self.spool), str(journal))
        self._journals.append(journal)
        words = ["tests.chaos.producer", msgspec.json.encode(order).decode()]
        if self.number == 0:  # its spool is on a small disk of its own
            words = ["tests.spool.small_disk", str(self._disk), str(SMALL_DISK_BYTES), *words]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self._process = GuardedProcess(
            [sys.executable, "-m", *words],
            log=self._folder / "producer.log",
            env={"PYTHONPATH": path},
            grace_s=FINISH_S,
        )
        self._process.start()
        wait_until_ready(
            self._process, lambda: last_number(journal) is not None, name=f"producer {self.number}"
        )

    def fill_disk(self) -> None:
        """Take all the room there is, as somebody else's log would."""
        with self._ballast.open("ab", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(PAGE_BYTES))
                except OSError:
                    return

    def free_disk(self) -> None:
        """Give it back."""
        self._ballast.unlink()

    @property
    def _ballast(self) -> Path:
        """Its disk is mounted for itself alone; we see it through its own root."""
        return Path(f"/proc/{self.process.pid}/root{self._disk}") / "ballast"

    def finish(self) -> None:
        """Stop it in order, and wait for its last words."""
        if self._process is not None:
            self._process.stop()

    def lives(self) -> list[Life]:
        """The journals of all of them, once it is gone."""
        return [read_life(journal) for journal in self._journals]

    def log_tail(self) -> str:
        """The end of what they have said."""
        return self.process.log_tail()


class Scene:
    """Starts on entering, ends and is deleted on leaving. Paths and names are its own."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.topic = "chaos"
        self.group = "chaos"
        self.experiment = f"chaos-{uuid.uuid4().hex[:8]}"
        self.partitions = plan.partitions
        self.tracking_uri = ""
        self.kafka = KafkaCluster()
        self.postgres = PostgresServer(durable=True)
        self.workers: list[SpanferryWorker] = []
        self.producers: list[Producer] = []
        self._stack = ExitStack()
        self._made_s = time.monotonic()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="spanferry-chaos-"))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        with ThreadPoolExecutor(2) as pool:
            database = pool.submit(self._start_database, folder)
            self._stack.enter_context(self.kafka)
            self.spanferry("topics", "create", "--partitions", str(self.partitions))
            database.result()
        options = {
            "bootstrap_servers": self.kafka.bootstrap_servers,
            "topic": self.topic,
            "tracking_uri": self.tracking_uri,
            "group": self.group,
            "options": self._worker_options(),
        }
        self.workers = [SpanferryWorker(**options) for _ in range(self.plan.workers)]
        for worker in self.workers:
            self._stack.callback(worker.close)
        with ThreadPoolExecutor(len(self.workers)) as pool:
            for _ in pool.map(SpanferryWorker.start, self.workers):
                pass
        self.producers = [Producer(n, folder, self._order) for n in range(self.plan.producers)]
        if self.plan.all_outcomes:
            # After all others: no fault is aimed at it.
            self.producers.append(Producer(self.plan.producers, folder, self._poor_order))
        for producer in self.producers:
            self._stack.callback(producer.finish)
            producer.start()

    def _start_database(self, folder: Path) -> None:
        """With MLflow's tables, which a worker would make as well, and later."""
        self._stack.enter_context(self.postgres)
        self.tracking_uri = self.postgres.new_database()
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        artifacts = folder / "artifacts"
        SqlAlchemyStore(self.tracking_uri, str(artifacts)).engine.dispose()

    def _worker_options(self) -> tuple[str, ...]:
        if not self.plan.all_outcomes:
            return WORKER_OPTIONS
        return (*WORKER_OPTIONS, f"--set=sample.rules={json.dumps([DROP_RULE])}")

    def _poor_order(self, first: int, _spool: str, journal: str) -> Order:
        order = self._order(first, "", journal)
        return msgspec.structs.replace(order, buffer_bytes=POOR_BUFFER_BYTES)

    def _order(self, first: int, spool: str, journal: str) -> Order:
        return Order(
            bootstrap_servers=self.kafka.bootstrap_servers,
            topic=self.topic,
            experiment=self.experiment,
            first=first,
            per_s=self.plan.traces / self.plan.seconds / self.plan.producers,
            spool=spool,
            journal=journal,
        )

    def spanferry(self, *words: str, codes: tuple[int, ...] = (0,)) -> str:
        """Run a command of spanferry's against this Kafka, topic and group: what it says."""
        environment = {
            "SPANFERRY_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "SPANFERRY_TOPIC": self.topic,
            "SPANFERRY_WORKER_GROUP": self.group,
        }
        done = subprocess.run(
            [sys.executable, "-m", "spanferry_worker", *words],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if done.returncode not in codes:
            raise ServiceError(f"spanferry {' '.join(words)}: {done.returncode}\n{done.stderr}")
        return done.stdout

    @property
    def age_s(self) -> float:
        """Since it was made, before any trace."""
        return time.monotonic() - self._made_s

    def log_tails(self) -> str:
        """What everybody has said last."""
        all_of_them = [self.kafka, self.postgres, *self.workers, *self.producers]
        return "\n".join(one.log_tail() for one in all_of_them)

    @staticmethod
    def has_small_disks() -> bool:
        """Whether file systems can be mounted here."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                small_disk.check(Path(folder))
            except RuntimeError:
                return False
        return True
