"""The command line: times, positions, filters, and usage errors that say what would do."""

import argparse
import io

import pytest

from spanferry_worker import cli
from spanferry_worker.arguments import settings_from
from spanferry_worker.dlq.arguments import add_arguments, parse_since, selection_from
from spanferry_worker.stages.dead_letter import REASONS
from tests.worker.events import T0_MS, number


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("90s", T0_MS - 90_000),
        ("2h", T0_MS - 2 * 3_600_000),
        ("7d", T0_MS - 7 * 86_400_000),
        ("999999999d", 0),
        ("2023-11-14", 1_699_920_000_000),
        ("2023-11-14T22:13:20", T0_MS),
        ("2023-11-14T22:13:20Z", T0_MS),
        ("2023-11-14T23:13:20+01:00", T0_MS),
        ("1900-01-01", 0),
    ],
)
def test_times_ago_and_times_of_day(text, ms):
    assert parse_since(text, T0_MS) == ms


@pytest.mark.parametrize("text", ["", "2", "h", "-2h", "2w", "1.5h", "yesterday", "9999999999d"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError):
        parse_since(text, T0_MS)


def test_filters_are_a_selection_and_no_settings():
    args = parse(
        *("list", "--reason=empty", "--reason=refused", "--experiment=shop", "--topic=mine"),
        *("--trace-id=tr-00000000000000000000000000000001", "--origin-topic=t"),
        *("--origin-partition=0", "--limit=5"),
    )
    selection = selection_from(args)
    assert selection.reasons == {"empty", "refused"}
    assert (selection.experiment, selection.trace_id) == ("shop", number(1))
    assert (selection.topic, selection.partition) == ("t", 0)
    settings = settings_from(args, {})
    assert settings.dead_letter_topic == "mine.dlq"
    assert settings.mlflow.experiment == "Default"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["list", "--reason", "nonsense"], f"unknown reason 'nonsense': {', '.join(REASONS)}"),
        (["list", "--since", "yesterday"], "'yesterday' is no time: give 30m"),
        (["list", "--trace-id", "tr-12"], "32 hexadecimal digits"),
        (["list", "--limit", "0"], "a whole number from 1 on"),
        (["list", "--origin-partition", "-1"], "--origin-partition"),
        (["show", "12"], "give PARTITION:OFFSET"),
        (["show", "0:99999999999999999999"], "give PARTITION:OFFSET"),
        (["replay", "--yes", "--dry-run"], "not allowed with"),
        ([], "VERB"),
    ],
)
def test_wrong_usage_is_code_2_and_says_what_would_do(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["dlq", *words])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_without_an_address_it_is_code_3(capsys):
    assert cli.main(["dlq", "list"]) == 3
    assert "spanferry dlq: kafka.bootstrap_servers is not set" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["list"], ["show", "0:0"], ["replay", "--yes"]])
def test_a_broker_that_is_not_there_is_code_3(words, capsys):
    assert cli.main(["dlq", *words, "--bootstrap-servers=127.0.0.1:9"]) == 3
    assert "cannot reach Kafka at 127.0.0.1:9" in capsys.readouterr().err


def test_a_replay_needs_somebody_to_ask(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert cli.main(["dlq", "replay", "--bootstrap-servers=127.0.0.1:9"]) == 2
    assert "add --yes or --dry-run" in capsys.readouterr().err
