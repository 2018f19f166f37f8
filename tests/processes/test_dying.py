"""kill -9 and os._exit: how old what they cost may be, by what docs/operations.md says of each case."""

import os
import random
import signal
import statistics
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.processes.account import arrived
from tests.processes.program import PROGRAMS, Program, program
from tests.services.kafka import KafkaServer
from tests.services.process import free_port
from tests.spool.test_bad_days import replay

pytestmark = [pytest.mark.kafka, pytest.mark.chaos]

LIVES = 7
LOOK_S, SOON_S = 0.25, 0.025
"""`linger_s`, after which the sender looks at what has come, and with spool_mode="always"."""
ACKNOWLEDGED_S = 0.15
"""And then the batch goes to Kafka, and comes back."""
MOMENT_S, BUSY_S = 0.1, 2.0
"""A moment more at most lives' ends; and where the machine is very busy."""

BOUNDS_S = {
    ("well", "none"): LOOK_S + ACKNOWLEDGED_S,
    ("well", "overflow"): LOOK_S + ACKNOWLEDGED_S,
    ("well", "always"): SOON_S,
    ("away", "overflow"): LOOK_S,
    ("away", "always"): SOON_S,
}
"""Of what may be lost, how old the oldest may be. Without a spool and without Kafka it is everything."""


@pytest.mark.parametrize("ending", ["kill -9", "os._exit"])
def test_what_a_sudden_end_costs_is_as_young_as_it_is_said_to_be(
    kafka: KafkaServer, topic: str, environment: dict[str, str], tmp_path: Path, ending: str
) -> None:
    """Five apps at once, each of which dies again and again, at any moment."""
    folder, notes = tmp_path / "spool", tmp_path / "notes"
    notes.mkdir()
    with ExitStack() as stack:
        apps: dict[str, Program] = {}
        for way, mode in BOUNDS_S:
            told = dict(environment)
            if way == "away":
                told["SPANFERRY_BOOTSTRAP_SERVERS"] = f"127.0.0.1:{free_port()}"
            if mode != "none":
                told |= {"SPANFERRY_SPOOL_DIR": str(folder), "SPANFERRY_SPOOL_MODE": mode}
            label = f"{way}-{mode}"
            words = (f"{PROGRAMS}.dated", label, str(notes), str(LIVES))
            apps[label] = stack.enter_context(program(*words, environment=told))
        for life in range(LIVES):
            pids = {
                label: int(app.wait_for(f"settled {label}.{life} ").split()[-1])
                for label, app in apps.items()
            }
            for label, app in apps.items():
                time.sleep(random.uniform(0.0, 0.2))
                os.kill(pids[label], signal.SIGKILL) if ending == "kill -9" else app.tell("leave")
        for app in apps.values():
            assert app.ended() == 0, app.output
    replay(kafka, topic, folder)
    found = numbers_by_life(kafka, topic)
    for (way, mode), bound_s in BOUNDS_S.items():
        lives = [f"{way}-{mode}.{life}" for life in range(LIVES)]
        ages_s = [oldest_lost_s(notes / life, found[life]) for life in lives]
        assert statistics.median(ages_s) <= bound_s + MOMENT_S, (way, mode, ages_s)
        assert max(ages_s) <= bound_s + BUSY_S, (way, mode, ages_s)


def numbers_by_life(kafka: KafkaServer, topic: str) -> dict[str, set[int]]:
    """Which traces of each life have arrived."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for name in arrived(kafka.bootstrap_servers, topic):
        life, _, number = name.rpartition("-")
        found[life].add(int(number))
    return found


def oldest_lost_s(notes: Path, found: set[int]) -> float:
    """How long before the last trace's end the first one that is missing had ended."""
    times = memoryview(notes.read_bytes()).cast("q")
    lost = [number for number in range(len(times)) if number not in found]
    assert len(times) > 10
    return (times[-1] - times[lost[0]]) / 1e9 if lost else 0.0
