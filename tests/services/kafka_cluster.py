"""Three brokers, each a process with a folder of its own: topics have three replicas, two in sync."""

import base64
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.new_partitions import NewPartitions
from aiokafka.errors import KafkaError

from tests.services.kafka import KafkaServer, _administer
from tests.services.process import ServiceError, free_port
from tests.services.service import Startable

__all__ = ["Broker", "KafkaCluster"]

NODES = (1, 2, 3)
HEAP_MB = 256
LOOK_S = 0.3
LOOKS_ALIKE = 3
"""A broker that has just come back may tell what was true before it went."""

PROPERTIES = """\
node.id={node}
controller.quorum.voters={voters}
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
num.network.threads=2
num.io.threads=4
background.threads=4
"""


class Broker(KafkaServer):
    """Broker and controller; answers once two of the three run."""

    def __init__(self, node: int, ports: Mapping[int, tuple[int, int]], cluster_id: str) -> None:
        super().__init__(heap_mb=HEAP_MB)
        self.node = node
        self._external = ""
        self._ports = ports[node]
        self._of_all = ports
        self._cluster = cluster_id

    def _more_properties(self, folder: Path) -> str:
        voters = (
            f"{node}@127.0.0.1:{controller}" for node, (_, controller) in self._of_all.items()
        )
        return PROPERTIES.format(node=self.node, voters=",".join(voters))

    def _format(self, folder: Path) -> None:
        self.cluster_id = self._cluster
        self._format_as(self._cluster, folder)


class KafkaCluster(Startable):
    """Starts on entering, ends and deletes its data on leaving."""

    def __init__(self) -> None:
        ports = {node: (free_port(), free_port()) for node in NODES}
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self.brokers = [Broker(node, ports, cluster_id) for node in NODES]
        self.bootstrap_servers = ",".join(f"127.0.0.1:{port}" for port, _ in ports.values())

    def start(self) -> None:
        """Start them together, because none answers alone."""
        with ThreadPoolExecutor(len(self.brokers)) as pool:
            for _ in pool.map(Broker.start, self.brokers):
                pass
        self.wait_in_sync()

    def close(self) -> None:
        """End them, without a word because two cannot elect anybody, and delete what they have."""
        for broker in self.brokers:
            if broker.running:
                broker.kill()
        with ThreadPoolExecutor(len(self.brokers)) as pool:
            for _ in pool.map(Broker.close, self.brokers):
                pass

    def log_tail(self) -> str:
        """The end of each broker's log."""
        return "\n".join(broker.log_tail() for broker in self.brokers)

    def wait_in_sync(self, timeout_s: float = 120.0) -> None:
        """Until every replica of every topic is in sync. Raises ServiceError when that takes too long."""
        deadline = time.monotonic() + timeout_s
        alike = 0
        while alike < LOOKS_ALIKE:
            alike = alike + 1 if self._in_sync() else 0
            if time.monotonic() > deadline:
                raise ServiceError(f"replicas not in sync after {timeout_s:g} s\n{self.log_tail()}")
            time.sleep(LOOK_S)

    def _in_sync(self) -> bool:
        found: list[bool] = []

        async def look(admin: AIOKafkaAdminClient) -> None:
            brokers = (await admin.describe_cluster())["brokers"]
            found.append(len(brokers) == len(NODES))
            for topic in await admin.describe_topics():
                found.extend(
                    sorted(one["isr"]) == sorted(one["replicas"]) for one in topic["partitions"]
                )

        try:
            _administer(self.bootstrap_servers, look)
        except (KafkaError, OSError, TimeoutError):
            return False
        return all(found)

    def grow_topic(self, name: str, partitions: int) -> None:
        """Give a topic more partitions."""

        async def grow(admin: AIOKafkaAdminClient) -> None:
            await admin.create_partitions({name: NewPartitions(partitions)})

        _administer(self.bootstrap_servers, grow)
