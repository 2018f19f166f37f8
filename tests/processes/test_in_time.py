"""An end is over in time whatever Kafka and the disk do, by the dying process's own clock."""

import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.processes.in_time import in_time
from tests.processes.program import PROGRAMS, program
from tests.processes.test_ending import frozen, refusing

EXIT_S = 2.0


@pytest.mark.parametrize("ending", ["exit", "sigterm"])
@pytest.mark.parametrize("disk", ["none", "well", "hangs"])
@pytest.mark.parametrize("away", [frozen, refusing])
def test_the_end_takes_what_it_is_said_to_take(
    tmp_path: Path, away, disk: str, ending: str
) -> None:
    environment = {
        "SPANFERRY_EXIT_TIMEOUT_S": str(EXIT_S),
        "SPANFERRY_MLFLOW": "false",
        "SPANFERRY_COLLECT_ENVIRONMENT": "false",
        "DISK": disk,
    }
    if disk != "none":
        environment["SPANFERRY_SPOOL_DIR"] = str(tmp_path)
    with ExitStack() as stack:
        environment["SPANFERRY_BOOTSTRAP_SERVERS"] = stack.enter_context(away())
        words = [f"{PROGRAMS}.bad_exit", "20", "wait"]
        running = stack.enter_context(program(*words, environment=environment))
        running.wait_for("traced")
        running.wait_until_it_reads()
        running.tell("") if ending == "exit" else running.signal(signal.SIGTERM)
        running.ended()
    assert in_time(running.output, EXIT_S), running.output
    said = "they are in the spool" if disk == "well" else "lost"
    assert (said in running.output) or (away, disk) == (refusing, "well"), running.output
