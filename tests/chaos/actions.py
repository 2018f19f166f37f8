"""What a fault does to the scene. Each returns when it is healed, and says in a few words what was done.

The services raise ServiceError where something does not come back.
"""

import time
from collections.abc import Callable, Mapping
from typing import Final

from tests.chaos.faults import Fault, Kind
from tests.chaos.scene import Scene
from tests.services.kafka_cluster import Broker

__all__ = ["act"]

MORE_PARTITIONS = 2
HEALED_S = 180.0


def act(scene: Scene, fault: Fault) -> str:
    """Do it, hold it, undo it, wait until all is well again with whom it was done to."""
    return ACTIONS[fault.kind](scene, fault)


def worker_killed(scene: Scene, fault: Fault) -> str:
    worker = scene.workers[fault.target]
    worker.kill()
    time.sleep(fault.hold_s)
    worker.start(ready=False)
    worker.wait(timeout_s=HEALED_S)
    return f"worker {fault.target}"


def worker_frozen(scene: Scene, fault: Fault) -> str:
    worker = scene.workers[fault.target]
    worker.pause()
    time.sleep(fault.hold_s)
    worker.resume()
    worker.wait(timeout_s=HEALED_S)
    return f"worker {fault.target}"


def workers_restarted(scene: Scene, fault: Fault) -> str:
    for worker in scene.workers:
        worker.stop()
        worker.start(ready=False)
        worker.wait(timeout_s=HEALED_S)
    return "SIGTERM, one after another"


def broker_killed(scene: Scene, fault: Fault) -> str:
    return _without_broker(scene, fault, Broker.kill, Broker.start)


def broker_frozen(scene: Scene, fault: Fault) -> str:
    return _without_broker(scene, fault, Broker.pause, Broker.resume)


def broker_restarted(scene: Scene, fault: Fault) -> str:
    return f"{_without_broker(scene, fault, Broker.stop, Broker.start)}, SIGTERM"


def kafka_frozen(scene: Scene, fault: Fault) -> str:
    for broker in scene.kafka.brokers:
        broker.pause()
    time.sleep(fault.hold_s)
    for broker in scene.kafka.brokers:
        broker.resume()
    scene.kafka.wait_in_sync()
    return "all at once"


def _without_broker(
    scene: Scene, fault: Fault, go: Callable[[Broker], None], come: Callable[[Broker], None]
) -> str:
    broker = scene.kafka.brokers[fault.target]
    go(broker)
    time.sleep(fault.hold_s)
    come(broker)
    scene.kafka.wait_in_sync()
    return f"broker {broker.node}"


def partitions_grown(scene: Scene, fault: Fault) -> str:
    before = scene.partitions
    scene.partitions += MORE_PARTITIONS
    scene.kafka.grow_topic(scene.topic, scene.partitions)
    scene.kafka.wait_in_sync()
    return f"{before} to {scene.partitions}"


def postgres_killed(scene: Scene, fault: Fault) -> str:
    scene.postgres.kill()
    time.sleep(fault.hold_s)
    scene.postgres.start_again()
    return "its first process"


def postgres_stopped(scene: Scene, fault: Fault) -> str:
    scene.postgres.stop_at_once()
    time.sleep(fault.hold_s)
    scene.postgres.start_again()
    return "SIGQUIT"


def postgres_frozen(scene: Scene, fault: Fault) -> str:
    scene.postgres.pause()
    time.sleep(fault.hold_s)
    scene.postgres.resume()
    return "all of its processes"


def producer_killed(scene: Scene, fault: Fault) -> str:
    producer = scene.producers[fault.target]
    producer.process.kill()
    time.sleep(fault.hold_s)
    producer.start()
    return f"producer {fault.target}; the next one has its spool"


def producer_frozen(scene: Scene, fault: Fault) -> str:
    producer = scene.producers[fault.target]
    producer.process.pause()
    time.sleep(fault.hold_s)
    producer.process.resume()
    return f"producer {fault.target}"


def disk_full(scene: Scene, fault: Fault) -> str:
    producer = scene.producers[fault.target]
    producer.fill_disk()
    time.sleep(fault.hold_s)
    producer.free_disk()
    return f"of producer {fault.target}"


ACTIONS: Final[Mapping[Kind, Callable[[Scene, Fault], str]]] = {
    Kind.WORKER_KILLED: worker_killed,
    Kind.WORKER_FROZEN: worker_frozen,
    Kind.WORKERS_RESTARTED: workers_restarted,
    Kind.BROKER_KILLED: broker_killed,
    Kind.BROKER_FROZEN: broker_frozen,
    Kind.BROKER_RESTARTED: broker_restarted,
    Kind.KAFKA_FROZEN: kafka_frozen,
    Kind.PARTITIONS_GROWN: partitions_grown,
    Kind.POSTGRES_KILLED: postgres_killed,
    Kind.POSTGRES_STOPPED: postgres_stopped,
    Kind.POSTGRES_FROZEN: postgres_frozen,
    Kind.PRODUCER_KILLED: producer_killed,
    Kind.PRODUCER_FROZEN: producer_frozen,
    Kind.DISK_FULL: disk_full,
}
