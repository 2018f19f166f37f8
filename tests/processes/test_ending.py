"""Every way in which a process ends: what arrives, what is lost, and how long it takes."""

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.processes.account import arrived, numbered
from tests.processes.in_time import in_time
from tests.processes.program import PROGRAMS, program
from tests.services.kafka import KafkaServer
from tests.services.process import free_port
from tests.spool.test_bad_days import replay

pytestmark = pytest.mark.kafka

APP = f"{PROGRAMS}.bad_exit"
TRACES = 300
EXIT_S = 3.0


@pytest.mark.parametrize(
    ("ending", "code", "more"),
    [("exit", 0, 0), ("raise", 1, 0), ("thread", 0, 1), ("flushed", 3, 0)],
    ids=["exit", "an exception", "a thread outlives the main thread", "os._exit after a flush"],
)
def test_nothing_is_lost(
    kafka: KafkaServer, topic: str, environment: dict[str, str], ending: str, code: int, more: int
) -> None:
    with program(APP, str(TRACES), ending, environment=environment) as running:
        assert running.ended() == code, running.output
    assert arrived(kafka.bootstrap_servers, topic) == numbered("trace", TRACES + more)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_the_app_does_not_handle(
    kafka: KafkaServer, topic: str, environment: dict[str, str], number: signal.Signals
) -> None:
    with program(APP, str(TRACES), "wait", environment=environment) as running:
        running.wait_for("traced")
        running.wait_until_it_reads()
        code = running.signal(number).ended()
        assert code == -number or number is signal.SIGINT, running.output
    assert arrived(kafka.bootstrap_servers, topic) == numbered("trace", TRACES)


def test_signals_are_not_given_to_the_senders_thread(environment: dict[str, str]) -> None:
    """Else a main thread that waits in a system call would not notice them, as after a freeze."""
    with program(APP, "1", "wait", environment=environment) as running:
        running.wait_for("traced")
        deadline_s = time.monotonic() + 150
        while (blocked := blocked_by_thread(running.pid)) and time.monotonic() < deadline_s:
            others = [mask for thread, mask in blocked.items() if thread != running.pid]
            if others and all(mask >= {signal.SIGTERM, signal.SIGINT} for mask in others):
                break
            time.sleep(0.05)  # the thread has just been started
        else:
            raise AssertionError(blocked)
        assert blocked[running.pid] == set()


def blocked_by_thread(pid: int) -> dict[int, set[int]]:
    """The signals that each thread of a process does not take."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = dict(line.split(":\t") for line in (task / "status").read_text().splitlines())
        mask = int(lines["SigBlk"], 16)
        found[int(task.name)] = {number for number in range(1, 65) if mask >> (number - 1) & 1}
    return found


def test_os_exit_loses_what_came_since_the_senders_last_look(
    kafka: KafkaServer, topic: str, environment: dict[str, str]
) -> None:
    """The last ones, and no other ones."""
    with program(APP, str(TRACES), "os._exit", environment=environment) as running:
        assert running.ended() == 3
    found = arrived(kafka.bootstrap_servers, topic)
    assert found == numbered("trace", len(found))


@contextmanager
def refusing() -> Iterator[str]:
    yield f"127.0.0.1:{free_port()}"


@contextmanager
def frozen() -> Iterator[str]:
    """Connections are taken by the kernel, and nobody answers: a broker under SIGSTOP."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as opened:
        yield f"127.0.0.1:{opened.getsockname()[1]}"


@contextmanager
def blackholed() -> Iterator[str]:
    """Not even connections are answered: the queue of those that wait is full."""
    with ExitStack() as stack:
        opened = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(opened.getsockname())
        yield f"127.0.0.1:{opened.getsockname()[1]}"


@contextmanager
def unresolved() -> Iterator[str]:
    yield "kafka.invalid:9092"


@pytest.mark.parametrize(
    ("away", "ending"),
    [
        (refusing, "exit"),
        (frozen, "exit"),
        (frozen, "sigterm"),
        (frozen, "sigint"),
        (blackholed, "exit"),
        (unresolved, "exit"),
        (unresolved, "sigterm"),
    ],
)
def test_without_kafka_the_end_is_in_time_and_the_rest_in_the_spool(
    kafka: KafkaServer, topic: str, environment: dict[str, str], tmp_path: Path, away, ending: str
) -> None:
    """One line says so; whoever comes next sends it."""
    environment |= {"SPANFERRY_SPOOL_DIR": str(tmp_path), "SPANFERRY_EXIT_TIMEOUT_S": str(EXIT_S)}
    with away() as servers:
        environment["SPANFERRY_BOOTSTRAP_SERVERS"] = servers
        if away is unresolved:
            environment["RESOLVER"] = "hangs"
        with program(APP, str(TRACES), "wait", environment=environment) as running:
            running.wait_for("traced")
            running.wait_until_it_reads()
            if ending == "exit":
                running.tell("")
            else:
                running.signal(getattr(signal, ending.upper()))
            running.ended()
    assert in_time(running.output, EXIT_S), running.output
    said = [line for line in running.output.splitlines() if "not acknowledged" in line]
    assert len(said) == 1, running.output
    assert said[0].startswith(f"{TRACES} traces were not acknowledged by Kafka")
    assert "lost" not in running.output
    replay(kafka, topic, tmp_path)
    assert arrived(kafka.bootstrap_servers, topic) == numbered("trace", TRACES)


def test_a_second_ctrl_c_does_not_wait(
    kafka: KafkaServer, topic: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """It spools at once, and says so."""
    environment |= {"SPANFERRY_SPOOL_DIR": str(tmp_path), "SPANFERRY_EXIT_TIMEOUT_S": "30"}
    with frozen() as servers:
        environment["SPANFERRY_BOOTSTRAP_SERVERS"] = servers
        with program(APP, str(TRACES), "wait", environment=environment) as running:
            running.wait_for("traced")
            running.wait_until_it_reads()
            running.signal(signal.SIGINT).wait_for("leaving")
            time.sleep(0.5)  # until it waits for Kafka, which nothing says
            begun = time.monotonic()
            running.signal(signal.SIGINT).ended()
            assert time.monotonic() - begun < 25
    assert running.output.count("not acknowledged") == 1, running.output
    replay(kafka, topic, tmp_path)
    assert arrived(kafka.bootstrap_servers, topic) == numbered("trace", TRACES)


def test_kill_9_with_the_spool_on_loses_nothing_but_the_last_moment(
    kafka: KafkaServer, topic: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """What the sender has looked at is on disk, whatever Kafka does; the rest are the last ones.

    What Kafka had acknowledged just before may come again, for the worker to see.
    """
    environment |= {"SPANFERRY_SPOOL_DIR": str(tmp_path), "SPANFERRY_SPOOL_MODE": "always"}
    with program(f"{PROGRAMS}.steady", environment=environment) as running:
        running.wait_for("at ", 3)
        running.signal(signal.SIGKILL).ended()
    taken, _, traced = running.output.splitlines()[-1].removeprefix("at ").partition(" of ")
    replay(kafka, topic, tmp_path)
    found = arrived(kafka.bootstrap_servers, topic)
    assert set(found) == set(numbered("trace", len(found))), "others than the last are missing"
    assert int(traced) >= int(taken) > 0
    assert len(found) >= int(taken)
