"""The wheel, built once, and an environment with nothing but what an app gets from it."""

import subprocess
import sys
from pathlib import Path

import pytest
import uv

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command, return what it printed; what it says on failure is the test's message."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution as users get it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def app_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an app that installed the wheel without extras, at the locked versions."""
    folder = tmp_path_factory.mktemp("app-env") / "venv"
    uv_program = uv.find_uv_bin()
    run(uv_program, "venv", "--python", sys.executable, folder, cwd=ROOT)
    python = folder / "bin" / "python"
    pins = ["--constraint", "requirements.lock"]
    run(uv_program, "pip", "install", "--python", python, *pins, wheel, cwd=ROOT)
    return python
