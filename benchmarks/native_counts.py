"""Machine instructions of a traced request, here and in another checkout.

    python -m benchmarks.native_counts                 what a trace takes, by path
    python -m benchmarks.native_counts --against DIR   and in that checkout; 1 where here it is 3 % more

`perf stat -e instructions:u` counts where the machine has counters and the kernel lets us read them, which
virtual machines mostly do not; else callgrind does, where valgrind is installed. Both see what happens inside
C functions, which benchmarks/instructions.py does not, and both give numbers that belong to one machine and
one build of Python: nothing is recorded, the other checkout is counted beside this one. Counted are N
traces and twice as many, each in a process of its own; the difference is that of N traces, imports and all
else taken off.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

__all__ = ["TOOLS", "Tool", "callgrind_count", "main", "perf_count", "usable_tool"]

ALLOWED = 1.03
PATHS = ("spanferry", "watched", "bridge")
_ROOT = Path(__file__).parents[1]
_COLLECTED = re.compile(r"^==\d+== Collected : (\d+)", re.MULTILINE)


def perf_count(said: str) -> int | None:
    """From what `perf stat -x,` prints; None where it counts nothing."""
    for line in said.splitlines():
        number, _, rest = line.partition(",")
        if "instructions" in rest and number.isdecimal():
            return int(number)
    return None


def callgrind_count(said: str) -> int | None:
    """From what callgrind prints at its end."""
    found = _COLLECTED.search(said)
    return int(found[1]) if found else None


class Tool(NamedTuple):
    """What counts."""

    name: str
    command: tuple[str, ...]
    count: Callable[[str], int | None]
    traces: int
    """How many are enough."""


TOOLS = (
    Tool("perf", ("perf", "stat", "-x,", "-e", "instructions:u"), perf_count, 20_000),
    Tool(
        "callgrind",
        ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
        callgrind_count,
        1_000,
    ),
)
"""The first that works is taken."""


def usable_tool() -> Tool | None:
    """One that is installed and counts on this machine."""
    for tool in TOOLS:
        if shutil.which(tool.command[0]):
            done = subprocess.run(
                [*tool.command, "true"], capture_output=True, text=True, check=False
            )
            if tool.count(done.stderr):
                return tool
    return None


def instructions(tool: Tool, path: str, checkout: Path) -> float:
    """Of one trace of that path with the app side that lies in `checkout`. RuntimeError where it fails."""
    once, twice = (_count(tool, path, checkout, tool.traces * times) for times in (1, 2))
    return (twice - once) / tool.traces


def _count(tool: Tool, path: str, checkout: Path, traces: int) -> int:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SPANFERRY_", "MLFLOW_"))}
    sources = ":".join(str(checkout / folder) for folder in ("producer", "schemas"))
    done = subprocess.run(
        [*tool.command, sys.executable, "-m", "benchmarks.instructions", "--paths", path,
         "--repeat", str(traces)],
        cwd=_ROOT,
        env={**kept, "PYTHONPATH": sources, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    found = tool.count(done.stderr)
    if done.returncode or found is None:
        raise RuntimeError(f"counting {path} failed\n{done.stderr[-2_000:]}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Count and print; 1 where a path takes too much, 2 where nothing can count here."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="another checkout, as git worktree makes it")
    parser.add_argument("--paths", nargs="+", choices=PATHS, default=PATHS)
    given = parser.parse_args(arguments)
    tool = usable_tool()
    if tool is None:
        print("neither perf nor callgrind counts instructions here: benchmarks.instructions does")
        return 2
    worse = False
    for path in given.paths:
        here = instructions(tool, path, _ROOT)
        said = f"{path}: {here:,.0f} instructions a trace by {tool.name}"
        if given.against:
            there = instructions(tool, path, given.against.resolve())
            worse = worse or here > there * ALLOWED
            said += f", {there:,.0f} there: {here / there:.3f} times"
        print(said, flush=True)
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())
