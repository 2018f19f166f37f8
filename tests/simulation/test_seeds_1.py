"""Whatever happens, nothing is lost, nothing is there twice, and everything comes to an end."""

import pytest

from tests.simulation.run import check_seeds

BLOCK = 100


@pytest.mark.parametrize("first", range(1, 1_001, BLOCK))
def test_nothing_is_lost_and_nothing_twice(first: int) -> None:
    check_seeds(first, first + BLOCK)
