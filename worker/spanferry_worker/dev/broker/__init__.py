"""A broker for trying out: Kafka's protocol as aiokafka speaks it, one node, in memory, no Java.

It has what an app and a worker need of Kafka: topics with partitions and limits, idempotent
producers, long-polling fetches, consumer groups with static members, committed offsets, and the
part of the admin API that `spanferry topics` and `spanferry doctor` ask. It has no replication and
no disk: what it holds ends with it. Production is Apache Kafka.

librdkafka's mock cluster was the alternative; it forgets what exceeds 5 MB a partition, knows no
topic settings, and its consumer groups fail as soon as a second aiokafka consumer joins.
"""

from spanferry_worker.dev.broker.server import EmbeddedBroker

__all__ = ["EmbeddedBroker"]
