"""Settings: who goes before whom, and that every mistake is named with its remedy."""

from pathlib import Path

import msgspec
import pytest

from spanferry_worker.errors import SettingsError
from spanferry_worker.settings import FLAGS, Settings, load_settings, require_for_worker


def test_the_defaults_hold_together():
    settings = load_settings({}, {})
    assert settings == Settings()
    assert settings.dead_letter_topic == "spanferry.traces.dlq"
    assert settings.sample.target_bytes == 100_000


def test_arguments_go_before_environment_before_file(tmp_path: Path):
    path = tmp_path / "worker.toml"
    path.write_text(
        '[kafka]\ngroup = "file"\ntopic = "file"\nbootstrap_servers = "file:1"\n'
        "[assemble]\nidle_s = 7\n"
    )
    env = {"SPANFERRY_WORKER_KAFKA_GROUP": "env", "SPANFERRY_WORKER_KAFKA_TOPIC": "env"}
    settings = load_settings({"group": "args", "topic": None}, env, path)
    assert settings.kafka.group == "args"
    assert settings.kafka.topic == "env"
    assert settings.kafka.bootstrap_servers == "file:1"
    assert settings.assemble.idle_s == 7.0


def test_shared_variables_count_where_ours_are_not_set():
    env = {
        "SPANFERRY_BOOTSTRAP_SERVERS": "shared:1",
        "SPANFERRY_TOPIC": "shared",
        "SPANFERRY_WORKER_TOPIC": "ours",
        "MLFLOW_TRACKING_URI": "http://mlflow",
        "MLFLOW_EXPERIMENT_NAME": "shop",
    }
    settings = load_settings({}, env)
    assert settings.kafka.bootstrap_servers == "shared:1"
    assert settings.kafka.topic == "ours"
    assert (settings.mlflow.tracking_uri, settings.mlflow.experiment) == ("http://mlflow", "shop")


@pytest.mark.parametrize("flag", FLAGS)
def test_every_short_name_is_a_variable_too(flag: str):
    key = FLAGS[flag]
    value = {"log_format": "json", "log_level": "debug"}.get(flag, "7")
    settings = load_settings({}, {f"SPANFERRY_WORKER_{flag.upper()}": value})
    section, _, name = key.partition(".")
    assert str(getattr(getattr(settings, section), name)) == value


def test_text_becomes_what_the_setting_is():
    given = {
        "assemble.write_open_at_stop": "true",
        "sample.target_bytes": "1000",
        "process.processes": "4",
        "kafka.session_timeout_s": "60.5",
    }
    settings = load_settings(given, {})
    assert settings.assemble.write_open_at_stop is True
    assert settings.sample.target_bytes == 1000
    assert settings.process.processes == 4
    assert settings.kafka.session_timeout_s == 60.5


@pytest.mark.parametrize(
    ("args", "env", "words"),
    [
        ({"kafka.grup": "x"}, {}, ["kafka.grup", "--set kafka.grup", "kafka.group"]),
        ({"processes": "many"}, {}, ["process.processes='many'", "--processes", "int"]),
        ({}, {"SPANFERRY_WORKER_HEALTH_PROT": "1"}, ["SPANFERRY_WORKER_HEALTH_PORT?"]),
        ({}, {"SPANFERRY_WORKER_PROCESSES": "x"}, ["(from SPANFERRY_WORKER_PROCESSES)"]),
        ({"log_format": "xml"}, {}, ["process.log_format", "'xml'"]),
        ({"process.processes": 0}, {}, ["process: processes must be at least 1", "--set"]),
        ({"assemble.age_s": 1}, {}, ["assemble: age_s must be at least idle_s"]),
        ({"kafka.security_protocol": "SASL_SSL"}, {}, ["needs sasl_username"]),
        ({"kafka.heartbeat_s": 30}, {}, ["a third of session_timeout_s"]),
        ({"assemble.bytes_max": 10**9}, {}, ["assemble.bytes_max", "raise held_bytes_max"]),
        ({"decode.chunk_bytes_max": 10**9}, {}, ["decode.chunk_bytes_max"]),
        ({"consume.revoke_flush_s": 90}, {}, ["below kafka.rebalance_timeout_s"]),
        ({"dead_letters.ratio_max": 2}, {}, ["ratio_max"]),
    ],
)
def test_a_mistake_names_key_origin_and_remedy(args, env, words):
    with pytest.raises(SettingsError) as caught:
        load_settings(args, env)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[kafka\n", "not TOML"),
        ("kafka = 1\n", "outside of a [section]"),
        ("[kafka]\nnothing = 1\n", "kafka.nothing"),
        ("[commit]\ninterval_s = 'often'\n", "commit.interval_s='often'"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, words: str):
    path = tmp_path / "worker.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings({}, {}, path)
    assert words in str(caught.value)
    assert "worker.toml" in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings({}, {}, tmp_path / "none.toml")


def test_a_worker_needs_a_broker_and_a_store():
    with pytest.raises(SettingsError, match="SPANFERRY_BOOTSTRAP_SERVERS"):
        require_for_worker(load_settings({}, {}))
    with pytest.raises(SettingsError, match="MLFLOW_TRACKING_URI"):
        require_for_worker(load_settings({"bootstrap_servers": "h:1"}, {}))
    require_for_worker(load_settings({"bootstrap_servers": "h:1", "tracking_uri": "http://m"}, {}))


def test_every_setting_says_its_unit_or_has_none():
    """Numbers with a dimension end in it; counts and ratios say what they count."""
    units = ("_s", "_ms", "_bytes", "_bytes_max", "_max", "_ratio", "ratio_max", "port")
    counts = ("processes", "window", "count_min")
    for part in msgspec.structs.fields(Settings):
        for field in msgspec.structs.fields(part.type):
            if field.type in {int, float}:
                assert field.name.endswith(units) or field.name in counts, field.name
