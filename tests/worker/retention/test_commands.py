"""The command line of `spanferry retention`: what it refuses before MLflow is asked, and how it asks."""

import argparse
import sys
from pathlib import Path

import pytest

from spanferry_worker import cli
from spanferry_worker.retention.arguments import add_arguments
from spanferry_worker.retention.cli import _wrong
from spanferry_worker.settings import Settings
from tests.worker.retention.double import Terminal

URI = "--tracking-uri=sqlite:////nowhere/mlflow.db"
ALL = "--all-experiments"
OLD = "--older-than=30d"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([URI, ALL, "--yes"], "--older-than"),
        ([URI, OLD, "--yes"], "one of the arguments --experiment --all-experiments is required"),
        ([URI, OLD, ALL, "--experiment=a"], "not allowed with argument"),
        ([URI, OLD, ALL, "--yes", "--dry-run"], "not allowed with argument"),
        ([URI, ALL, "--older-than=soon"], "'soon' is no time: give 30m, 2h, 7d"),
        ([URI, OLD, ALL, "--state=DONE"], "invalid choice: 'DONE'"),
        ([URI, OLD, ALL, "--tag=env"], "'env': give it as KEY=VALUE"),
        ([URI, OLD, ALL, "--tag==x"], "'=x': give it as KEY=VALUE"),
        ([URI, OLD, ALL, "--keep-tag==x"], "'=x': give it as KEY or KEY=VALUE"),
        ([URI, OLD, ALL, "--batch-size=501"], "'501': at most 500"),
        ([URI, OLD, ALL, "--batch-size=0"], "'0': give a whole number from 1 on"),
        ([URI, OLD, ALL, "--max-traces=-1"], "give a whole number from 1 on"),
        ([URI, OLD, ALL, "--max-traces=all"], "give a whole number from 1 on"),
        ([URI, OLD, ALL, "--pause=-1"], "'-1': give seconds from 0 to 3600"),
        ([URI, OLD, ALL, "--pause=nan"], "'nan': give seconds"),
    ],
)
def test_wrong_usage_is_code_2_and_says_what_to_give(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["retention", *words])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([OLD, ALL], "asks before it deletes, and here is nobody to ask: add --yes or --dry-run"),
        ([OLD, ALL, "--json"], "here is nobody to ask"),
        ([OLD, "--experiment=a", "--except-experiment=b", "--yes"], "goes with --all-experiments"),
        (["--older-than=2999-01-01", ALL, "--yes"], "that time has not come yet"),
        (["--older-than=2999-01-01", ALL, "--yes", "--force"], "that time has not come yet"),
        (
            ["--older-than=59m", ALL, "--yes"],
            "younger than 60 minutes parts may still be on the way",
        ),
        (
            ["--older-than=3h", ALL, "--dry-run", "--set=assemble.age_s=7200"],
            "younger than 240 minutes",
        ),
    ],
)
def test_what_makes_no_sense_or_is_dangerous_is_refused_before_mlflow_is_asked(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["retention", URI, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("spanferry retention: ")
    assert said in error
    assert error.count("\n") == 1


def test_without_a_tracking_uri_it_says_how_to_give_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["retention", OLD, ALL, "--dry-run"]) == 3
    assert "mlflow.tracking_uri is not set: give --tracking-uri" in capsys.readouterr().err


def test_kafka_s_address_is_not_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["retention", OLD, ALL, "--dry-run", URI]) == 3
    assert "there is no database sqlite:////nowhere/mlflow.db" in capsys.readouterr().err


def test_force_lets_young_traces_go_and_a_terminal_can_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(["--older-than=5m", ALL, "--force", "--yes"])
    assert _wrong(Settings(), args, args.older_than + 300_000) == ""
    args = parser.parse_args([OLD, ALL])
    monkeypatch.setattr(sys, "stdin", Terminal())
    assert _wrong(Settings(), args, args.older_than + 30 * 86_400_000) == ""


def test_the_settings_file_of_the_workers_will_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('[mlflow]\ntracking_uri = "sqlite:////nowhere/of-the-file.db"\n')
    assert cli.main(["retention", OLD, ALL, "--dry-run", f"--config={file}"]) == 3
    assert "of-the-file.db" in capsys.readouterr().err
