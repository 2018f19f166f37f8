"""Which traces have arrived: what every test of this folder counts."""

from collections import Counter

from spanferry_schemas import Fragment, decode, read_meta
from tests.producer.topic import read_numbered

__all__ = ["arrived", "numbered"]

TRACE_NAME = "mlflow.traceName"


def arrived(bootstrap_servers: str, topic: str) -> Counter[str]:
    """How often the end of each trace is there, by its name. Records with the same producer and
    sequence are one."""
    names: set[tuple[int, bytes, int]] = set()
    found: Counter[str] = Counter()
    for record in read_numbered(bootstrap_servers, topic):
        meta = read_meta(record.headers)
        assert meta is not None
        name = (record.partition, meta.producer_id, meta.sequence)
        if name in names:
            continue
        names.add(name)
        fragment = decode(record.value)
        assert isinstance(fragment, Fragment), fragment
        if fragment.end is not None:
            assert fragment.trace is not None
            found[fragment.trace.tags[TRACE_NAME]] += 1
    return found


def numbered(label: str, count: int) -> Counter[str]:
    """`label-0` to `label-<count - 1>`, once each."""
    return Counter(f"{label}-{number}" for number in range(count))
