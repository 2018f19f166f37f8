"""As test_seeds_1: files are what is shared out among processes."""

import pytest

from tests.simulation.run import check_seeds

BLOCK = 100


@pytest.mark.parametrize("first", range(1_001, 2_001, BLOCK))
def test_nothing_is_lost_and_nothing_twice(first: int) -> None:
    check_seeds(first, first + BLOCK)
