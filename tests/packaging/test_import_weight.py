"""`import spanferry` in an app costs about what msgspec does: by what is loaded, not by the clock."""

import json
import subprocess
import sys

import pytest

# What is slow to import, or what an app that never sends should not hold.
HEAVY = {"asyncio", "concurrent.futures", "http", "multiprocessing", "ssl", "unittest"}
OURS = {"spanferry", "spanferry_schemas", "spanferry_start"}
# msgspec loads typing_extensions where it happens to be installed
LIGHT = {"msgspec", "orjson", "typing_extensions"}


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter loads for a statement."""
    script = (
        "import json, sys; before = set(sys.modules); "
        f"{statement}; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    return set(json.loads(printed))


def test_only_the_encoders_come_with_spanferry() -> None:
    loaded = modules_after("import spanferry")
    foreign = {module.split(".")[0] for module in loaded} - sys.stdlib_module_names - OURS
    assert foreign <= LIGHT


def test_nothing_heavy_comes_with_spanferry() -> None:
    # msgspec and contextvars load some of the standard library by themselves
    assert not HEAVY & (modules_after("import spanferry") - modules_after("import msgspec"))


@pytest.mark.parametrize("module", ["spanferry.asgi", "spanferry.metrics", "spanferry.testing"])
def test_the_parts_that_apps_import_by_hand_stay_light(module: str) -> None:
    loaded = modules_after(f"import {module}")
    unwanted = {
        "aiokafka",
        "mlflow",
        "opentelemetry",
        "prometheus_client",
        "spanferry_worker",
        "uvloop",
    }
    assert not unwanted & loaded


def test_the_command_loads_mlflow_only_when_it_is_needed() -> None:
    assert not {"aiokafka", "mlflow"} & modules_after("import spanferry_worker.cli")
