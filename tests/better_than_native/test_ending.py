"""SIGTERM right after 100 traces: what waits in the process is lost natively, and kept here."""

import signal

import httpx
import pytest

from tests.better_than_native.account import wait_until
from tests.services.process import free_port

pytestmark = [pytest.mark.kafka, pytest.mark.mlflow]

TRACES = 100


def kept(way, experiment, seconds):
    found = way.wait_for(experiment, TRACES, seconds=seconds)
    return sorted(one.number for one in found if one.number is not None and one.spans == 1)


def killed_while_it_sits_there(way, experiment):
    """The exit code of a program that handles no signals."""
    process = way.start("plain", experiment, count=TRACES)
    try:
        assert process.stdout is not None
        assert process.stdout.readline(), process.communicate()[1]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
        return process.returncode
    finally:
        process.kill()


def killed_while_it_serves(way, experiment, program="served"):
    """The exit code of a uvicorn that has answered its last request just now."""
    port = free_port()
    process = way.start(program, experiment, port=port)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            assert wait_until(lambda: answers(client), 150), process.communicate(timeout=5)[1]
            for number in range(TRACES):
                assert client.get(f"/chat/{number}").is_success
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
        return process.returncode
    finally:
        process.kill()


def answers(client):
    try:
        return client.get("/openapi.json").is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("killed", [killed_while_it_sits_there, killed_while_it_serves])
def test_traces_right_before_sigterm(native, line, note, killed):
    experiment = native.new_experiment()
    assert killed(native, experiment) == -signal.SIGTERM
    alone = kept(native, experiment, 0)
    note(f"native: {len(alone)} of {TRACES} stored")
    assert len(alone) < TRACES

    experiment = line.new_experiment()
    assert killed(line, experiment) == -signal.SIGTERM
    assert kept(line, experiment, 60) == list(range(TRACES))


def test_a_server_whose_own_handlers_were_there_first(line):
    """Its graceful shutdown, during which the sender works on, is all there is."""
    experiment = line.new_experiment()
    assert killed_while_it_serves(line, experiment, "served_late") == -signal.SIGTERM
    assert kept(line, experiment, 60) == list(range(TRACES))
