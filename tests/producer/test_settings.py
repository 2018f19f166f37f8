"""Options of the app side: where they come from, and what is said when they are wrong."""

import pytest

from spanferry import log
from spanferry.settings import ConfigurationError, DropPolicy, Settings, load_settings

BROKER = {"bootstrap_servers": "broker:9092"}


def test_arguments_go_before_the_environment_and_that_before_defaults():
    environment = {
        "SPANFERRY_BOOTSTRAP_SERVERS": "elsewhere:9092",
        "SPANFERRY_TOPIC": "from.environment",
        "SPANFERRY_BUFFER_BYTES": "2000000",
        "SPANFERRY_DROP": "oldest",
        "SPANFERRY_COLLECT_ENVIRONMENT": "false",
    }
    settings = load_settings({**BROKER, "topic": None}, environment)
    assert settings.bootstrap_servers == "broker:9092"
    assert settings.topic == "from.environment"
    assert settings.buffer_bytes == 2_000_000
    assert settings.drop is DropPolicy.OLDEST
    assert settings.collect_environment is False
    assert settings.compression == "zstd"


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ({}, {"MLFLOW_EXPERIMENT_NAME": "a"}, ("a", None)),
        ({}, {"MLFLOW_EXPERIMENT_ID": "7", "MLFLOW_EXPERIMENT_NAME": "a"}, (None, "7")),
        ({}, {"SPANFERRY_EXPERIMENT": "b", "MLFLOW_EXPERIMENT_ID": "7"}, ("b", None)),
        ({"experiment": "c"}, {"MLFLOW_EXPERIMENT_ID": "7"}, ("c", None)),
    ],
)
def test_the_experiment_falls_back_to_mlflows_variables(arguments, environment, expected):
    settings = load_settings(BROKER | arguments, environment)
    assert (settings.experiment, settings.experiment_id) == expected


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ({}, {}, "SPANFERRY_BOOTSTRAP_SERVERS"),
        ({"bootstrap_servers": "  "}, {}, "bootstrap_servers is not set"),
        (BROKER | {"buffer_byte": 1}, {}, "did you mean buffer_bytes"),
        (BROKER | {"nonsense": 1}, {}, "known are"),
        (BROKER, {"SPANFERRY_BUFFER_BYTES": "64MB"}, "SPANFERRY_BUFFER_BYTES='64MB'"),
        (BROKER | {"drop": "random"}, {}, "drop='random'"),
        (BROKER | {"compression": "brotli"}, {}, "brotli"),
        (BROKER | {"record_bytes_max": 100}, {}, "record_bytes_max=100"),
        (BROKER | {"buffer_bytes": 100_000}, {}, "at least one record"),
        (BROKER | {"linger_s": 0}, {}, "linger_s"),
        (BROKER | {"exit_timeout_s": -1}, {}, "exit_timeout_s"),
        (BROKER | {"topic": ""}, {}, "topic is empty"),
        (BROKER | {"metadata": ["region"]}, {}, "metadata=.*must be a mapping, not list"),
        (BROKER | {"metadata": {3: "a"}}, {}, "metadata=.*a key must be a text .* not 3"),
        (BROKER | {"metadata": {" ": "a"}}, {}, "a key must be a text that is not empty"),
        (
            BROKER,
            {"SPANFERRY_METADATA": "eu-west"},
            "SPANFERRY_METADATA=.*'eu-west' is not key=value",
        ),
        (BROKER, {"SPANFERRY_METADATA": "=a"}, "a key must be a text that is not empty"),
        (BROKER, {"SPANFERRY_METADATA": '{"a": '}, "begins as a JSON object and is none"),
        (BROKER, {"SPANFERRY_METADATA": '["a"]'}, "is not key=value"),
    ],
)
def test_what_is_wrong_is_said_with_its_name(arguments, environment, words):
    with pytest.raises(ConfigurationError, match=words):
        load_settings(arguments, environment)


def test_every_option_can_be_given_to_enable():
    from spanferry.settings import Options

    assert set(Options.__annotations__) == set(Settings.__struct_fields__)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"app_version": "2.4", "replicas": 3, "canary": True}, "2.4 3 True"),
        ({"app_version": "2.4", "region": None}, "2.4"),
    ],
)
def test_metadata_is_stored_as_text(given, expected):
    settings = load_settings(BROKER | {"metadata": given}, {"SPANFERRY_METADATA": "other=1"})
    assert " ".join(settings.metadata.values()) == expected
    assert "region" not in settings.metadata


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("region=eu-west, app_version = 2.4 ,", {"region": "eu-west", "app_version": "2.4"}),
        ("query=a=b", {"query": "a=b"}),
        (
            ' {"region": "eu", "n": 1.50, "x": [1,  2], "no": null} ',
            {"region": "eu", "n": "1.50", "x": "[1,  2]"},
        ),
        ("", {}),
    ],
)
def test_metadata_comes_from_the_environment(variable, expected):
    assert load_settings(BROKER, {"SPANFERRY_METADATA": variable}).metadata == expected


def test_metadata_longer_than_mlflow_takes_is_cut_and_said_once(monkeypatch, caplog):
    monkeypatch.setattr(log, "_said", set())
    given = {"metadata": {"k" * 300: "v" * 9_000, "ok": "\ud800"}}
    for _ in range(2):
        settings = load_settings(BROKER | given, {})
        assert settings.metadata == {"k" * 250: "v" * 8_000, "ok": "?"}
    (record,) = caplog.records
    assert "shorten it in enable(metadata=...)" in record.getMessage()
