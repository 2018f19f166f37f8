"""Keys find the partitions that every other client of Kafka finds for them."""

from aiokafka.partitioner import murmur2 as theirs
from hypothesis import example, given
from hypothesis import strategies as st

from spanferry.murmur import murmur2


@given(st.binary(max_size=40))
@example(b"")
@example(b"\xff" * 16)
def test_the_hash_is_that_of_kafkas_clients(key: bytes) -> None:
    assert murmur2(key) == theirs(key) & 0xFFFFFFFF


def test_the_hash_is_that_of_kafkas_own_tests() -> None:
    """From org.apache.kafka.common.utils.UtilsTest."""
    assert murmur2(b"21") == -973932308 & 0xFFFFFFFF
    assert murmur2(b"foobar") == -790332482 & 0xFFFFFFFF
    assert murmur2(b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8") == -58897971 & 0xFFFFFFFF
