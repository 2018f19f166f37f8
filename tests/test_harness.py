"""The alarms of conftest.py go off when they should."""

import asyncio
import os
import time
import warnings
from pathlib import Path

import pytest
from blockbuster import BlockingError

import spanferry


def sleep_as_if_in(package_file: str) -> None:
    """Block for a moment in code that seems to lie beside a file."""
    code = compile("sleep(0.001)", str(Path(package_file).with_name("part.py")), "exec")
    exec(code, {"sleep": time.sleep})


async def test_our_code_may_not_block_a_loop() -> None:
    assert spanferry.__file__
    with pytest.raises(BlockingError):
        sleep_as_if_in(spanferry.__file__)


async def test_the_tests_own_code_may() -> None:
    sleep_as_if_in(__file__)


async def test_our_code_may_block_a_thread() -> None:
    assert spanferry.__file__
    await asyncio.to_thread(sleep_as_if_in, spanferry.__file__)


@pytest.mark.both_loops
async def test_both_loops_means_asyncio_and_uvloop(request: pytest.FixtureRequest) -> None:
    loop = type(asyncio.get_running_loop()).__module__
    assert loop.split(".")[0] in request.node.name


def test_a_warning_is_an_error() -> None:
    with pytest.raises(UserWarning, match="unexpected"):
        warnings.warn("unexpected", stacklevel=1)


class TestEnvironment:
    """In this order: what the first sets, the second does not see."""

    def test_a_test_sets_a_variable(self) -> None:
        os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"

    def test_the_next_does_not_see_it(self) -> None:
        assert "MLFLOW_TRACKING_URI" not in os.environ
