"""`python -m tests.chaos`: the long run."""

import argparse
import sys
from pathlib import Path

import msgspec

from tests.chaos.faults import Kind, Plan
from tests.chaos.report import lines
from tests.chaos.run import run
from tests.chaos.scene import Scene

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "chaos.json"


def main() -> int:
    """0 where every trace is accounted for."""
    usual = Plan()
    parser = argparse.ArgumentParser(
        prog="make chaos", description=(__doc__ or "").partition(":")[2]
    )
    parser.add_argument("--traces", type=int, default=usual.traces, help="at least so many")
    parser.add_argument("--faults", type=int, default=usual.faults)
    parser.add_argument("--seed", type=int, default=usual.seed, help="repeats an order of faults")
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="of load")
    parser.add_argument("--no-results", action="store_true", help=f"leave {RESULTS.name} as it is")
    options = parser.parse_args()
    left_out = frozenset() if Scene.has_small_disks() else frozenset({Kind.DISK_FULL})
    plan = Plan(
        traces=options.traces,
        faults=options.faults,
        seed=options.seed,
        seconds=options.seconds,
        left_out=left_out,
        all_outcomes=True,
    )
    for kind in left_out:
        say(f"left out, because no file system can be mounted here: {kind.value}")
    say(f"seed {plan.seed}: {plan.faults} faults, {plan.traces:,} traces in {plan.seconds:.0f} s")
    report = run(plan, say)
    for line in ("", *lines(report)):
        say(line)
    if not options.no_results:
        RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    return 1 if report.failures else 0


def say(line: str) -> None:
    """At once, also into a file."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
