"""A seed means the same run: here, again, and in another process."""

import os
import subprocess
import sys

from tests.simulation.run import run_seed

SEEDS = range(1, 16)


def digests(hash_seed: str) -> list[str]:
    """Of a process of its own, in which sets have another order."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation.run", "1", "16", "digests"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[:-1]


def test_a_seed_has_one_history() -> None:
    first = [run_seed(seed).history.digest() for seed in SEEDS]
    assert [run_seed(seed).history.digest() for seed in SEEDS] == first
    assert len(set(first)) == len(first)
    assert digests("1") == [f"{s} {d}" for s, d in zip(SEEDS, first, strict=True)] == digests("2")


KINDS = {
    "killed", "stands still", "expelled", "told to stop", "rebalance", "store_away", "store_slow",
    "letters_away", "broker_away", "broke off", "refused", "junk", "chunks_incomplete", "(age",
    "(late", "(idle", "(memory", "(complete", "(drain", "assessment by request", "assessment trace",
    "drops written down", "restored, ", " cut, ", ", again", "app-9", ", out of order",
    ", root before a child", "its clock jumps", "s wrong", "stored, and the answer was lost",
    "no answer (commit.answered)", "no answer (letters.answered)", "no answer (ledger.answered)",
}  # fmt: skip
"""Words of a history that say what has happened."""


def test_everything_that_can_happen_does() -> None:
    missing = set(KINDS)
    for seed in range(1, 101):
        text = run_seed(seed).history.text(lines_max=1_000_000)
        missing = {kind for kind in missing if kind not in text}
    assert missing == set()
