"""What `pip install spanferry` puts on a machine."""

import configparser
import zipfile
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, run

EXAMPLES = "spanferry_worker/dev/_examples"
PACKAGES = {"spanferry", "spanferry_schemas", "spanferry_worker"}


def test_the_wheel_holds_the_three_typed_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    [metadata] = tops - PACKAGES
    assert tops == {*PACKAGES, metadata}
    assert metadata.endswith(".dist-info")
    assert f"{metadata}/licenses/LICENSE" in names
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    stray = [n for n in names if not n.startswith(metadata) and not n.endswith((".py", "py.typed"))]
    assert stray == [f"{EXAMPLES}/README.md"]


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


@pytest.mark.timeout(300)
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
