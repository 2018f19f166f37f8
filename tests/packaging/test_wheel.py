"""What `pip install spanferry` puts on a machine."""

import configparser
import zipfile
from pathlib import Path

from tests.packaging.conftest import ROOT, run

EXAMPLES = "spanferry_worker/dev/_examples"
PACKAGES = {"spanferry", "spanferry_schemas", "spanferry_start", "spanferry_worker"}
AT_START = "spanferry_start.pth"


def test_the_wheel_holds_the_four_typed_packages_and_what_runs_at_start(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    [metadata] = tops - PACKAGES - {AT_START}
    assert tops == {*PACKAGES, AT_START, metadata}
    assert metadata.endswith(".dist-info")
    assert f"{metadata}/licenses/LICENSE" in names
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    stray = [n for n in names if not n.startswith(metadata) and not n.endswith((".py", "py.typed"))]
    assert set(stray) == {f"{EXAMPLES}/README.md", AT_START}


def test_the_wheel_brings_the_app_of_the_demo(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        brought = {n for n in archive.namelist() if n.startswith(EXAMPLES)}
    files = [path for path in (ROOT / "examples").rglob("*") if path.suffix in {".py", ".md"}]
    assert brought == {f"{EXAMPLES}/{path.relative_to(ROOT / 'examples')}" for path in files}


def test_the_wheel_offers_one_command(wheel: Path) -> None:
    entry_points = configparser.ConfigParser()
    with zipfile.ZipFile(wheel) as archive:
        [name] = [n for n in archive.namelist() if n.endswith("entry_points.txt")]
        entry_points.read_string(archive.read(name).decode())
    assert dict(entry_points["console_scripts"]) == {"spanferry": "spanferry_worker.cli:entry"}


def test_an_app_keeps_its_own_worker_and_schemas(app_python: Path, tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text("NAME = 'the app'\n")
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "__init__.py").write_text("NAME = 'the app'\n")
    (tmp_path / "main.py").write_text(
        "import schemas, worker, spanferry, spanferry_schemas\n"
        "print(worker.NAME, schemas.NAME, spanferry.__name__, spanferry_schemas.TOPIC)\n"
    )
    printed = run(app_python, "main.py", cwd=tmp_path)
    assert printed.split() == ["the", "app", "the", "app", "spanferry", "spanferry.traces"]


def test_an_installed_app_is_switched_on_by_a_variable_and_by_the_command(app_python: Path) -> None:
    told = ["env", "SPANFERRY_BOOTSTRAP_SERVERS=127.0.0.1:9"]
    enabled = "import spanferry; print(spanferry.stats().enabled)"
    python = [app_python, "-c", enabled]
    command = [app_python.parent / "spanferry", "run", "--"]
    assert run(*told, *python, cwd=ROOT / "docs") == "False\n"
    assert run(*told, "SPANFERRY_ENABLED=true", *python, cwd=ROOT / "docs") == "True\n"
    assert run(*told, *command, *python, cwd=ROOT / "docs") == "True\n"
