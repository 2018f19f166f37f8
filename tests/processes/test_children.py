"""Forked and spawned children send their own traces, all of them, and only their own."""

from collections import Counter

import pytest

from tests.processes.account import arrived, numbered
from tests.processes.program import PROGRAMS, Program, program
from tests.processes.programs.children import CHILDREN, TRACES
from tests.producer.topic import read_fragments
from tests.services.kafka import KafkaServer

pytestmark = pytest.mark.kafka


def children(count: int = CHILDREN) -> Counter[str]:
    found: Counter[str] = Counter()
    for number in range(count):
        found += numbered(f"child{number}", TRACES)
    return found


def run(kind: str, environment: dict[str, str]) -> Program:
    with program(f"{PROGRAMS}.children", kind, environment=environment) as running:
        assert running.ended() == 0, running.output
    assert "Traceback" not in running.output, running.output
    return running


@pytest.mark.parametrize(
    "kind", ["fork", "spawn", "forkserver", "pool", "executor", "plain"], ids="{}".format
)
def test_children_that_end_right_after_their_last_trace(
    kafka: KafkaServer, topic: str, environment: dict[str, str], kind: str
) -> None:
    """multiprocessing's end by os._exit, without atexit."""
    run(kind, environment)
    assert arrived(kafka.bootstrap_servers, topic) == children()


def test_a_parent_that_has_traced_before(
    kafka: KafkaServer, topic: str, environment: dict[str, str]
) -> None:
    run("traced-before", environment)
    assert arrived(kafka.bootstrap_servers, topic) == children() + numbered("parent", 20)


def test_threads_of_a_child_that_outlive_its_work(
    kafka: KafkaServer, topic: str, environment: dict[str, str]
) -> None:
    run("threads", environment)
    assert arrived(kafka.bootstrap_servers, topic) == children(1)


def test_forks_while_other_threads_trace(
    kafka: KafkaServer, topic: str, environment: dict[str, str]
) -> None:
    said = run("while-threads-trace", environment).wait_for("threads").split()[1:]
    expected = children(10)
    for number, count in enumerate(map(int, said)):
        assert count > 10
        expected += numbered(f"thread{number}", count)
    assert arrived(kafka.bootstrap_servers, topic) == expected


def test_a_child_that_is_switched_on_again_leaves_the_parents_connection_alone(
    kafka: KafkaServer, topic: str, environment: dict[str, str]
) -> None:
    run("enable-again", environment)
    assert arrived(kafka.bootstrap_servers, topic) == children(1) + numbered("parent", 20)


def test_a_fork_in_the_middle_of_a_trace(
    kafka: KafkaServer, topic: str, environment: dict[str, str]
) -> None:
    run("open-span", environment)
    fragments = read_fragments(kafka.bootstrap_servers, topic)
    assert len({one.trace_id for one in fragments}) == 1
    assert [one.end for one in fragments if one.end is not None] != []
    assert arrived(kafka.bootstrap_servers, topic) == numbered("parent", 1)
    assert sum(len(one.spans) for one in fragments) == 1 + 2 * TRACES
