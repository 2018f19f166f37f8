"""Options of the app side: where they come from, and what is said when they are wrong."""

import pytest

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
    ],
)
def test_what_is_wrong_is_said_with_its_name(arguments, environment, words):
    with pytest.raises(ConfigurationError, match=words):
        load_settings(arguments, environment)


def test_every_option_can_be_given_to_enable():
    from spanferry.settings import Options

    assert set(Options.__annotations__) == set(Settings.__struct_fields__)
