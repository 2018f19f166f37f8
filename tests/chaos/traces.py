"""The trace of a number: what a producer does for it is what the store must show for it."""

import random
from typing import Any, NamedTuple

__all__ = ["SAMPLED_TAG", "STRIDE", "Expected", "Feedback", "expected", "payload"]

STRIDE = 10_000_000
"""The numbers of producer P begin at P times this."""
WIDE_SPANS = 32
LITTLE = range(200, 3_000)
BIG = 100_000
GIANT = 2_000_000
SAMPLED_TAG = "chaos.sampled"
"""Set on the traces that a rule drops, where there is one."""


class Feedback(NamedTuple):
    """One judgement, by the trace's id or by the client's id of its request."""

    by_request: bool
    value: int


class Expected(NamedTuple):
    """What a number stands for."""

    number: int
    spans: tuple[str, ...]
    """Their names; the first one is the root, and the parent of all others."""
    sizes: tuple[int, ...]
    """Characters of each one's inputs."""
    feedback: Feedback | None
    sampled: bool
    """Whether it is for the rule: it is little, and nobody judges it, which would bring it back."""


def expected(number: int) -> Expected:
    """Mostly 2 to 5 spans and some KB; one of 100 has 100 KB, one of 1,000 a value of 2 MB, and one of
    1,000 2 MB in 32 spans. One of five is judged by its id, one of fifty by its request's; one of
    twenty-five is for the rule that drops."""
    kind, own = number % 1_000, random.Random(number)
    sizes = [own.choice(LITTLE)] + [own.choice(LITTLE) // 4] * (1 + number % 4)
    if kind == 77:
        sizes[0] = GIANT
    elif kind == 277:
        sizes = [GIANT // WIDE_SPANS] * WIDE_SPANS
    elif number % 100 == 33:
        sizes[0] = BIG
    names = ("root", *(f"step {index}" for index in range(1, len(sizes))))
    by_request = number % 50 == 9
    feedback = Feedback(by_request, number % 97) if by_request or number % 5 == 3 else None
    return Expected(number, names, tuple(sizes), feedback, sampled=number % 25 == 5)


def payload(number: int, index: int, size: int) -> dict[str, Any]:
    """The inputs of a trace's so-manieth span: text that does not compress to nothing."""
    text = random.Random(number * 1_000 + index).randbytes(size // 2 + 1).hex()[:size]
    return {"number": number, "text": text}
