"""What the simulation takes for granted: a worker's clock is as wrong as the wall clock was at its start."""

import pytest

from spanferry_worker.services import clock
from spanferry_worker.services.clock import SystemClock

HOUR_S = 3_600
T0_NS = 1_700_000_000 * 10**9


class Machine:
    """Its wall clock is set now and then; the monotonic one goes on."""

    def __init__(self) -> None:
        self.passed_ns = 77
        self.wrong_ns = 0

    def monotonic_ns(self) -> int:
        return self.passed_ns

    def time_ns(self) -> int:
        return T0_NS + self.passed_ns + self.wrong_ns

    def pass_s(self, seconds: float) -> None:
        self.passed_ns += int(seconds * 10**9)

    def jump_s(self, seconds: float) -> None:
        self.wrong_ns += int(seconds * 10**9)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(clock, "time", machine)
    return machine


@pytest.mark.parametrize("jump_s", [-HOUR_S, -0.5, 0.5, HOUR_S])
def test_a_wall_clock_that_jumps_moves_no_clock_of_a_worker(machine: Machine, jump_s: float):
    running = SystemClock()
    began_ms = running.now_ms()
    assert began_ms == T0_NS // 10**6
    machine.pass_s(5)
    machine.jump_s(jump_s)
    assert running.now_ms() == began_ms + 5_000
    machine.pass_s(0.25)
    assert running.now_ms() == began_ms + 5_250
    machine.jump_s(-jump_s)
    assert running.now_ms() == began_ms + 5_250


def test_who_starts_after_the_jump_goes_by_the_wall_clock_of_then(machine: Machine):
    running = SystemClock()
    machine.pass_s(1)
    machine.jump_s(-HOUR_S)
    started = SystemClock()
    assert started.now_ms() - running.now_ms() == -HOUR_S * 1_000
    machine.pass_s(10)
    assert started.now_ms() - running.now_ms() == -HOUR_S * 1_000


def test_it_never_goes_back(machine: Machine):
    running = SystemClock()
    seen = []
    for jump_s in (3, -7, HOUR_S, -2 * HOUR_S, 0.001, -0.001) * 20:
        machine.pass_s(0.01)
        machine.jump_s(jump_s)
        seen.append(running.now_ms())
    assert seen == sorted(seen)
    assert seen[-1] - seen[0] == 10 * (len(seen) - 1)
