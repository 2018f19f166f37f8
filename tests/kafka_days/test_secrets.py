"""No secret is shown by anything, and one set of variables serves the app and every command."""

import contextlib
import io
import os
import subprocess
import sys
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from spanferry.client import enable
from spanferry.settings import ConfigurationError, Settings, load_settings
from spanferry_schemas.security import SECRETS, Secret
from spanferry_worker.cli import main
from spanferry_worker.errors import SettingsError
from spanferry_worker.settings import KafkaSettings
from spanferry_worker.settings import load_settings as load_worker_settings
from tests.kafka_days.app import App, arrived
from tests.kafka_days.certificates import Authority
from tests.kafka_days.secured import PASSWORD, USER, SecuredKafka, token

CANARY = "canary-s3cret"
BROKER: dict[str, Any] = {"bootstrap_servers": "broker:9092"}
SIGNED = {"security_protocol": "SASL_SSL", "sasl_username": USER}


def test_secrets_are_hidden_wherever_settings_are_shown() -> None:
    app = load_settings(
        {**BROKER, **SIGNED, "sasl_password": CANARY, "ssl_cert_file": __file__},
        {"SPANFERRY_SSL_KEY_PASSWORD": CANARY},
    )
    worker = KafkaSettings(
        security_protocol="SASL_SSL",
        sasl_username=USER,
        sasl_password=CANARY,
        ssl_cert_file="x",
        ssl_key_password=CANARY,
    )
    for settings in (app, worker):
        shown = f"{settings} {settings!r} {settings.sasl_password} {settings.ssl_key_password:>9}"
        assert "canary" not in shown
        assert settings.sasl_password == CANARY
        assert isinstance(settings.ssl_key_password, Secret)
        assert settings.ssl_key_password.encode() == CANARY.encode()
        assert settings.masked(f"said {CANARY}!") == "said ***!"
    assert set(Settings.__struct_fields__) >= SECRETS


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"sasl_password": [CANARY]}, "sasl_password=... cannot be used"),
    ({"ssl_key_password": {"a": CANARY}}, "ssl_key_password=... cannot be used"),
    ({"sasl_pasword": CANARY}, "did you mean sasl_password"),
    ({"sasl_password": CANARY}, "does not sign in: set it to SASL_SSL"),
    ({**SIGNED}, "needs sasl_username and sasl_password or sasl_password_file"),
    ({**SIGNED, "sasl_password": CANARY, "sasl_password_file": __file__}, "leave one out"),
    ({**SIGNED, "sasl_mechanism": "OAUTHBEARER"}, "needs sasl_oauth_token_provider or"),
    ({**SIGNED, "sasl_mechanism": "GSSAPI", "sasl_password": CANARY}, "sasl_mechanism='GSSAPI'"),
    ({"sasl_oauth_token_provider": "no-colon"}, "is not module:function"),
    ({"ssl_ca_file": __file__}, "speaks no TLS"),
    ({"security_protocol": "SSL", "ssl_ca_file": "/none.pem"}, "ssl_ca_file=/none.pem cannot be"),
    ({"security_protocol": "SSL", "ssl_key_file": __file__}, "needs ssl_cert_file"),
    ({"security_protocol": "SSL", "ssl_key_password": CANARY}, "needs ssl_cert_file"),
    ({"security_protocol": "TLS"}, "security_protocol='TLS'"),
]


@pytest.mark.parametrize(("options", "words"), WRONG)
def test_the_app_says_what_is_wrong_and_no_secret(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        enable(**{**BROKER, **options})
    assert words in str(caught.value)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (
            lambda: load_worker_settings({"kafka.sasl_password": [CANARY]}, {}),
            "kafka.sasl_password=...",
        ),
        (
            lambda: load_worker_settings({}, {"SPANFERRY_SASL_PASSWORD": CANARY}),
            "kafka.sasl_password from SPANFERRY_SASL_PASSWORD",
        ),
        (lambda: load_worker_settings({"kafka.sasl_pasword": CANARY}, {}), "did you mean kafka."),
    ],
)
def test_the_worker_says_what_is_wrong_and_no_secret(
    load: Callable[[], object], words: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load()
    assert words in str(caught.value)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_a_setting_without_its_equals_sign_is_not_repeated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["topics", "create", "--set", f"kafka.sasl_password:{CANARY}"]) == 3
    assert "canary" not in capsys.readouterr().err


@pytest.fixture
def variables(broker: SecuredKafka, authority: Authority, here: Path) -> dict[str, str]:
    """What an app and everybody else has in the environment."""
    password = here / "password"
    password.write_text(PASSWORD)
    return {
        "SPANFERRY_BOOTSTRAP_SERVERS": broker.at("SIGNEDTLS"),
        "SPANFERRY_TOPIC": f"shared-{uuid.uuid4().hex[:8]}",
        "SPANFERRY_SECURITY_PROTOCOL": "SASL_SSL",
        "SPANFERRY_SASL_MECHANISM": "SCRAM-SHA-512",
        "SPANFERRY_SASL_USERNAME": USER,
        "SPANFERRY_SASL_PASSWORD_FILE": str(password),
        "SPANFERRY_SSL_CA_FILE": str(authority.ca),
    }


def command(environment: Mapping[str, str], *words: str) -> tuple[int, str]:
    """`spanferry` with these words; its exit code and all that it said."""
    done = subprocess.run(
        [sys.executable, "-m", "spanferry_worker", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.kafka
def test_one_set_of_variables_serves_the_app_and_every_command(
    broker: SecuredKafka, variables: dict[str, str], app: App, here: Path, monkeypatch: Any
) -> None:
    topic = variables["SPANFERRY_TOPIC"]
    code, said = command(variables, "topics", "create", "--partitions", "2")
    assert (code, said.count("created")) == (0, 4), said
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    folder = here / "spool"
    closed = f"127.0.0.1:{broker.proxy_port}"
    app.on(closed, topic, spool_dir=str(folder), exit_timeout_s=1.0)
    app.send(20)
    app.off()
    assert "20 traces" in app.warnings[-1]
    code, said = command({**variables, "SPANFERRY_SPOOL_DIR": str(folder)}, "spool", "replay")
    assert code == 0, said
    assert arrived(broker.bootstrap_servers, topic) == Counter(range(20))
    code, said = command({**variables, "SPANFERRY_SASL_PASSWORD_FILE": "/none"}, "doctor")
    assert "sasl_password_file=/none cannot be read" in said
    code, said = command(variables, "doctor")
    assert "speaks Kafka (SASL_SSL)" in said, said
    assert "canary" not in said + app.log


@pytest.mark.kafka
@pytest.mark.parametrize("way", ["password", "key", "token"])
def test_no_command_shows_a_right_secret(
    broker: SecuredKafka, variables: dict[str, str], authority: Authority, way: str
) -> None:
    """It is used, which doctor's answer shows, and said nowhere."""
    common = {name: variables[name] for name in ("SPANFERRY_TOPIC", "SPANFERRY_SSL_CA_FILE")}
    if way == "password":
        secret, listener = PASSWORD, "SIGNEDTLS"
        more = {
            "SECURITY_PROTOCOL": "SASL_SSL",
            "SASL_MECHANISM": "SCRAM-SHA-256",
            "SASL_USERNAME": USER,
            "SASL_PASSWORD": PASSWORD,
        }
    elif way == "key":
        secret, listener = CANARY, "MUTUAL"
        certificate, key = authority.issue(f"{USER}", password=CANARY)
        more = {
            "SECURITY_PROTOCOL": "SSL",
            "SSL_CERT_FILE": str(certificate),
            "SSL_KEY_FILE": str(key),
            "SSL_KEY_PASSWORD": CANARY,
        }
    else:
        secret, listener = token().partition(".")[0], "SIGNED"
        del common["SPANFERRY_SSL_CA_FILE"]
        more = {
            "SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "SASL_MECHANISM": "OAUTHBEARER",
            "SASL_OAUTH_TOKEN_PROVIDER": "tests.kafka_days.secured:token",
        }
    environment = common | {f"SPANFERRY_{name}": value for name, value in more.items()}
    environment["SPANFERRY_BOOTSTRAP_SERVERS"] = broker.at(listener)
    code, said = command(environment, "topics", "create", "--partitions", "2")
    assert code == 0, said
    _, answer = command(environment, "doctor")
    assert f"speaks Kafka ({more['SECURITY_PROTOCOL']})" in answer, answer
    assert secret not in said + answer


@pytest.mark.kafka
def test_no_command_shows_a_wrong_password(broker: SecuredKafka, variables: dict[str, str]) -> None:
    del variables["SPANFERRY_SASL_PASSWORD_FILE"]
    variables["SPANFERRY_SASL_PASSWORD"] = CANARY
    for words, known in (
        (("doctor",), "refuses user name or password"),
        (("topics", "create"), "cannot reach Kafka"),
    ):
        code, said = command(variables, *words)
        assert code != 0
        assert known in said
        assert "canary" not in said


def test_the_help_of_no_command_asks_for_a_password() -> None:
    """What is on a command line can be seen by every user of the machine."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(["worker", "--help"])
    assert "--sasl-password" not in out.getvalue()
