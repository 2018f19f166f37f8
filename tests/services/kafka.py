"""A real Apache Kafka: one process, broker and controller, on free ports of 127.0.0.1."""

import asyncio
import base64
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, for_code

from tests.services import kafka_jars
from tests.services.process import GuardedProcess, ServiceError, free_port
from tests.services.service import Service

__all__ = ["KafkaServer", "share_classes"]

AdminUse = Callable[[AIOKafkaAdminClient], Awaitable[Any]]

EXTERNAL = "SPANFERRY_TEST_KAFKA"
HEAP_MB = 512
REQUEST_TIMEOUT_MS = 15_000
POLL_S = 0.05
SERIAL = "-XX:+UseSerialGC"
FAST_START = (SERIAL, "-XX:TieredStopAtLevel=1")
"""For what lives for minutes at most: compiling for the long run would cost more than it gives."""
LOGGING = ("defaultLogLevel=warn", "showDateTime=true", "dateTimeFormat=HH:mm:ss.SSS")

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
# one broker: internal topics cannot have more replicas, and few partitions load faster
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# tests join groups one consumer at a time
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
# a broker that was killed may register again only after its old session has ended (9 s by default)
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
# 128 MB of heap by default
log.cleaner.dedupe.buffer.size=4194304
"""


class KafkaServer(Service):
    """stop(), kill() and start() again keep ports and data.

    With SPANFERRY_TEST_KAFKA=host:port set it stands for that broker, which can be used but not
    started, paused or killed. Methods block; in a coroutine call them through asyncio.to_thread.
    """

    name: ClassVar[str] = "Kafka"
    start_timeout_s: ClassVar[float] = 150.0

    def __init__(self, *, heap_mb: int = HEAP_MB, for_load: bool = False) -> None:
        """`for_load`: its Java compiles for the long run, as one in production does."""
        super().__init__()
        self._java_options = [f"-Xmx{heap_mb}m", f"-Xms{heap_mb // 2}m"]
        self._java_options += [SERIAL] if for_load else FAST_START
        self._ports: tuple[int, int] | None = None
        """Where clients and controllers find it, if that is not to be chosen."""
        self.controller_port = 0
        self.cluster_id = ""
        self._format_arguments: list[str] = []
        """What a kind of its own has written into an empty storage."""
        self._external = os.environ.get(EXTERNAL, "")
        self.bootstrap_servers = self._external

    def start(self) -> None:
        """Start it, or start it again; returns when it answers. Nothing happens if it runs."""
        if self._external:
            if not _answers(self._external):
                raise ServiceError(f"{EXTERNAL}={self._external}: no Kafka answers there")
            return
        super().start()

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        self._own("kill").kill()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers."""
        self._own("pause").pause()

    def resume(self) -> None:
        """Let it go on after pause()."""
        self._own("resume").resume()

    @property
    def running(self) -> bool:
        """Whether it runs; a paused or external one counts as running."""
        return bool(self._external) or (self._process is not None and self._process.running)

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        config: dict[str, str] | None = None,
        *,
        replicas: int = 1,
    ) -> str:
        """Create a topic, wait until it can be used, and return its name."""

        async def create(admin: AIOKafkaAdminClient) -> None:
            topic = NewTopic(name, partitions, replicas, topic_configs=config or {})
            answer = await admin.create_topics([topic])
            for _, code, *detail in answer.topic_errors:
                if code:
                    raise ServiceError(f"topic {name}: {for_code(code).__name__} {detail}")
            while not await _has_leaders(admin, name, partitions):  # noqa: ASYNC110 - no event
                await asyncio.sleep(POLL_S)

        _administer(self.bootstrap_servers, create)
        return name

    def delete_topic(self, name: str) -> None:
        """Delete a topic."""
        _administer(self.bootstrap_servers, lambda admin: admin.delete_topics([name]))

    def _own(self, action: str) -> GuardedProcess:
        if self._external:
            raise ServiceError(f"cannot {action} the broker that {EXTERNAL} names; unset it")
        return super()._own(action)

    def _answers(self) -> bool:
        return _answers(self.bootstrap_servers)

    def replace(self) -> None:
        """Another cluster in its place: the same ports, nothing stored, a new id. Stopped before,
        and to be started again."""
        process = self._own("replace")
        if process.running:
            raise ServiceError("stop it before")
        assert self._folder is not None
        shutil.rmtree(self._folder / "data")
        self._format(self._folder)

    def _more_properties(self, folder: Path) -> str:
        """What a kind of its own adds to the configuration, or puts in another's place."""
        return ""

    def _prepare(self, folder: Path) -> GuardedProcess:
        """Choose ports, write the configuration, format the storage."""
        port, self.controller_port = self._ports or (free_port(), free_port())
        self.bootstrap_servers = f"127.0.0.1:{port}"
        properties = folder / "server.properties"
        written = PROPERTIES.format(
            port=port, controller_port=self.controller_port, data=folder / "data"
        )
        properties.write_text(written + self._more_properties(folder))
        self._format(folder)
        options = [*self._java_options]
        options += [f"-Dorg.slf4j.simpleLogger.{setting}" for setting in LOGGING]
        return GuardedProcess(
            _java(options, "kafka.Kafka", properties),
            log=folder / "kafka.log",
        )

    def _format(self, folder: Path) -> None:
        self.cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self._format_as(self.cluster_id, folder)

    def _format_as(self, cluster: str, folder: Path) -> None:
        storage_tool = [
            "kafka.tools.StorageTool",
            "format",
            f"--cluster-id={cluster}",
            "-c",
            folder / "server.properties",
            *self._format_arguments,
        ]
        formatted = subprocess.run(
            _java(FAST_START, *storage_tool),
            capture_output=True,
            text=True,
            check=False,
        )
        if formatted.returncode:
            raise ServiceError(f"cannot format Kafka's storage\n{formatted.stderr}")


class _Archiving(KafkaServer):
    """Writes the classes that it has loaded when it ends."""

    def __init__(self, archive: Path) -> None:
        super().__init__()
        self._external = ""
        self._java_options.append(f"-XX:ArchiveClassesAtExit={archive}")


def share_classes() -> None:
    """Once for a checkout, let a broker write its classes down: later ones start in half the time.

    Safe between processes. A Java that cannot do so leaves a file without content, and is not asked again.
    """
    archive = kafka_jars.class_archive()
    with kafka_jars.cache("kafka-classes.lock"):
        if not archive.exists():
            partial = archive.with_suffix(".partial")
            with _Archiving(partial):
                pass
            partial.touch()
            partial.rename(archive)


def _java(options: Sequence[str], *program: str | Path) -> list[str | Path]:
    """The command that runs one of Kafka's programs."""
    shared = _shared_classes()
    return [kafka_jars.java(), *options, *shared, "-cp", kafka_jars.classpath(), *program]


def _shared_classes() -> list[str]:
    archive = kafka_jars.class_archive()
    there = archive.exists() and archive.stat().st_size
    return [f"-XX:SharedArchiveFile={archive}"] if there else []


def _administer(bootstrap_servers: str, use: AdminUse) -> None:
    """Use an admin client, in a thread of its own: the caller may be inside a running loop."""

    async def session() -> None:
        admin = AIOKafkaAdminClient(
            bootstrap_servers=bootstrap_servers, request_timeout_ms=REQUEST_TIMEOUT_MS
        )
        await admin.start()
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_MS / 1000):
                await use(admin)
        finally:
            await admin.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, session()).result()


def _answers(bootstrap_servers: str) -> bool:
    host, _, port = bootstrap_servers.split(",", maxsplit=1)[0].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        _administer(bootstrap_servers, _await_broker)
    except (KafkaError, OSError, TimeoutError):
        return False
    return True


async def _await_broker(admin: AIOKafkaAdminClient) -> None:
    while not (await admin.describe_cluster())["brokers"]:  # noqa: ASYNC110 - no event
        await asyncio.sleep(POLL_S)


async def _has_leaders(admin: AIOKafkaAdminClient, name: str, partitions: int) -> bool:
    [topic] = await admin.describe_topics([name])
    leaders = [partition["leader"] for partition in topic["partitions"]]
    return len(leaders) == partitions and -1 not in leaders
