"""An app that uses MLflow's own tracing API stores the same through spanferry as without it."""

from pathlib import Path

import pytest

from tests.mlflow_api.comparison import Difference, differences
from tests.mlflow_api.golden import Golden, updating
from tests.mlflow_api.intended import INTENDED, as_markdown, reason_for
from tests.mlflow_api.registry import load_programs
from tests.mlflow_api.runs import INSTALLED_MLFLOW, MODES, VERSIONS, Run
from tests.mlflow_api.skipped import SKIPPED

pytestmark = [pytest.mark.kafka, pytest.mark.mlflow, pytest.mark.timeout(900)]

PAGE = Path(__file__).parents[2] / "docs" / "mlflow-differences.md"


PROGRAMS = list(load_programs())
CASES = [
    (version, mode, program)
    for version in VERSIONS
    for mode in MODES
    for program in PROGRAMS
    if version == INSTALLED_MLFLOW or program not in SKIPPED
]
Runs = dict[tuple[str, str], Run]
GOLDEN = Golden.read()


@pytest.mark.parametrize(("version", "mode", "program"), CASES)
def test_the_same_is_stored_and_returned(runs: Runs, version: str, mode: str, program: str) -> None:
    native = runs[version, "native"].programs[program]
    ours = runs[version, mode].programs[program]
    unintended = [
        str(difference)
        for difference in differences(native, ours)
        if not is_intended(program, mode, difference)
    ]
    assert not unintended, "\n".join([f"{len(unintended)} differences", *unintended[:20]])


def is_intended(program: str, mode: str, difference: Difference) -> bool:
    """There is a reason, and what is ours is what it is to be: by the reason, or written down."""
    reason = reason_for(program, mode, difference)
    if reason is None:
        return False
    return bool(reason.ours) or updating() or GOLDEN.knows(mode, program, difference)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ["native", *MODES])
def test_nothing_is_skipped_silently(runs: Runs, version: str, mode: str) -> None:
    report = runs[version, mode].report
    assert report["mlflow"] == version
    assert report["skipped"] == ({} if version == INSTALLED_MLFLOW else SKIPPED)
    assert len(report["results"]) + len(report["skipped"]) == len(PROGRAMS) >= 200


@pytest.mark.parametrize("version", VERSIONS)
def test_every_mode_is_what_it_says(runs: Runs, version: str) -> None:
    assert runs[version, "native"].report["sent"] is None
    for mode in MODES:
        run = runs[version, mode]
        assert run.report["spans of"].startswith("spanferry") == (mode == "accelerated"), mode
        stored = sum(len(program["traces"]) for program in run.programs.values())
        assert run.report["sent"]["traces_sent"] >= stored >= 200
        assert run.report["sent"]["traces_dropped"] == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_programs_fail_only_as_they_fail_natively(runs: Runs, version: str) -> None:
    failed = {
        name: program["error"]
        for name, program in runs[version, "native"].programs.items()
        if "error" in program
    }
    assert set(failed) <= {"enums", "keys_that_are_no_text"}, failed
    assert not failed or version != INSTALLED_MLFLOW


def test_intended_differences_are_there(runs: Runs) -> None:
    found = {
        reason_for(program, mode, difference)
        for version, mode in runs
        if mode != "native"
        for program, ours in runs[version, mode].programs.items()
        for difference in differences(runs[version, "native"].programs[program], ours)
    }
    unused = [one.what for one in INTENDED if one.always and one not in found]
    assert unused == []


@pytest.mark.skipif(not updating(), reason="UPDATE_GOLDEN=1 writes what is stored now")
def test_intended_differences_are_written_down(runs: Runs) -> None:
    golden = Golden({})
    for (version, mode), run in runs.items():
        for program, ours in run.programs.items() if mode != "native" else ():
            for difference in differences(runs[version, "native"].programs[program], ours):
                reason = reason_for(program, mode, difference)
                if reason is not None and not reason.ours:
                    golden.add(mode, program, difference)
    golden.write()


def test_intended_differences_are_documented() -> None:
    _, _, listed = PAGE.read_text().partition("<!-- the list -->\n")
    assert listed == as_markdown(INTENDED), "write as_markdown(INTENDED) below the mark"
