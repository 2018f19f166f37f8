"""Runs seeds and says what was wrong: `python -m tests.simulation.run 1 2001`.

python -m tests.simulation.run 4711           one seed, with its history
python -m tests.simulation.run 1 100001       from the first to below the second; failures only
python -m tests.simulation.run 1 11 digests   the hashes of their histories
"""

import logging
import sys
import time
from collections.abc import Callable

from tests.simulation.plan import Plan, make_plan
from tests.simulation.world import World

__all__ = ["check_seeds", "explain", "main", "run_seed"]


def run_seed(seed: int, make: Callable[[Plan], World] = World) -> World:
    """One run; `audit.problems` of what is returned is empty where all was well."""
    world = make(make_plan(seed))
    logger = logging.getLogger("spanferry")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        world.run()
    finally:
        logger.setLevel(level)
    return world


def explain(world: World) -> str:
    """The problems, what happened, and how to have it again."""
    seed = world.plan.seed
    problems = "\n".join(f"- {one}" for one in world.problems[:10])
    return (
        f"seed {seed}:\n{problems}\n\n{world.plan}\n\n{world.history.text()}\n\n"
        f"again: .venv/bin/python -m tests.simulation.run {seed}"
    )


def check_seeds(first: int, end: int) -> None:
    """Fail with the history of the first seed in which something is wrong."""
    for seed in range(first, end):
        world = run_seed(seed)
        assert not world.problems, explain(world)


def main(arguments: list[str]) -> int:
    """See the module."""
    first = int(arguments[0])
    if len(arguments) == 1:
        world = run_seed(first)
        print(explain(world), f"history {world.history.digest()}", sep="\n")
        return bool(world.problems)
    began = time.perf_counter()
    failed = 0
    for seed in range(first, int(arguments[1])):
        world = run_seed(seed)
        if "digests" in arguments:
            print(seed, world.history.digest())
        if world.problems:
            failed += 1
            print(f"seed {seed}: {world.problems[0]}", flush=True)
    count = int(arguments[1]) - first
    print(f"{count} seeds, {failed} failed, {time.perf_counter() - began:.1f} s")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
