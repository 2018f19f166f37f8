"""Every way into a real Kafka: right and wrong, and mended while the app runs."""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from spanferry.client import stats
from spanferry.settings import load_settings
from tests.kafka_days.app import App, arrived
from tests.kafka_days.certificates import Authority
from tests.kafka_days.secured import PASSWORD, STRANGER, USER, SecuredKafka, token

pytestmark = pytest.mark.kafka

WRONG = "canary-wr0ng"
SERVERS = {"bootstrap_servers": "broker:9092"}
SIGNED: dict[str, Any] = {
    "security_protocol": "SASL_PLAINTEXT",
    "sasl_username": USER,
    "sasl_password": PASSWORD,
}
TOKEN: dict[str, Any] = {
    "security_protocol": "SASL_PLAINTEXT",
    "sasl_mechanism": "OAUTHBEARER",
    "sasl_oauth_token_provider": "tests.kafka_days.secured:token",
}


def expired() -> str:
    """A token of yesterday, with something in it that nobody may see."""
    return token(valid_s=-1000, subject="canary-token")


async def fresh() -> str:
    """A provider may be asynchronous."""
    return token()


def broken() -> str:
    """A provider whose errors tell too much."""
    raise RuntimeError("could not log in with client_secret=canary-s3cret")


@pytest.mark.parametrize(
    ("listener", "options"),
    [
        ("SIGNED", {**SIGNED, "sasl_mechanism": "PLAIN"}),
        ("SIGNED", {**SIGNED, "sasl_mechanism": "SCRAM-SHA-256"}),
        ("SIGNEDTLS", {"sasl_mechanism": "SCRAM-SHA-512", "security_protocol": "SASL_SSL"}),
        ("SIGNED", TOKEN),
        ("SIGNED", {**TOKEN, "sasl_oauth_token_provider": fresh}),
        ("MUTUAL", {"security_protocol": "SSL"}),
        ("OTHERNAME", {"security_protocol": "SSL", "ssl_check_hostname": False}),
    ],
    ids=["plain", "scram-256", "scram-512-tls", "token", "async-token", "mtls", "no-hostname"],
)
def test_right_credentials_get_in(
    broker: SecuredKafka,
    topic: str,
    app: App,
    authority: Authority,
    listener: str,
    options: dict[str, Any],
) -> None:
    if options["security_protocol"].endswith("SSL"):
        options = {**options, "ssl_ca_file": str(authority.ca)}
    if listener == "SIGNEDTLS":
        options = {**SIGNED, **options}
    if listener == "MUTUAL":
        certificate, key = authority.issue(USER, password=WRONG)
        options |= {"ssl_cert_file": str(certificate), "ssl_key_file": str(key)}
        options |= {"ssl_key_password": WRONG}
    app.on(broker.at(listener), topic, **options)
    app.send(20)
    app.delivers()
    assert arrived(broker.bootstrap_servers, topic) == Counter(range(20))
    assert app.warnings == []
    assert stats().troubles == {}
    told = app.log + repr(stats()) + repr(load_settings({**options, **SERVERS}, {}))
    assert "sending traces to" in told, "nothing is looked for in nothing"
    assert "canary" not in told
    if "sasl_oauth_token_provider" in options:
        assert token().partition(".")[0] not in told


@pytest.mark.parametrize(
    ("listener", "options", "kind", "words"),
    [
        ("SIGNED", {"sasl_password": WRONG}, "authentication", "refuses user 'app'"),
        (
            "SIGNED",
            {"sasl_password": WRONG, "sasl_mechanism": "SCRAM-SHA-512"},
            "authentication",
            "correct sasl_username, sasl_password",
        ),
        ("SIGNED", {"sasl_username": "who"}, "authentication", "refuses user 'who'"),
        ("SIGNED", {"sasl_username": STRANGER}, "authorization", "rights (ACLs)"),
        ("PROXIED", {}, "protocol", "set security_protocol to PLAINTEXT"),
        ("SIGNEDTLS", {}, "protocol", "set security_protocol"),
        (
            "SIGNED",
            {**TOKEN, "sasl_oauth_token_provider": expired},
            "authentication",
            "refuses the token",
        ),
        (
            "SIGNED",
            {**TOKEN, "sasl_oauth_token_provider": broken},
            "settings",
            "provider raised RuntimeError",
        ),
        (
            "SIGNED",
            {**TOKEN, "sasl_oauth_token_provider": "tests.nowhere:token"},
            "settings",
            "cannot be imported: ModuleNotFoundError",
        ),
    ],
)
def test_wrong_credentials_are_said_in_one_line(
    broker: SecuredKafka,
    topic: str,
    app: App,
    listener: str,
    options: dict[str, Any],
    kind: str,
    words: str,
) -> None:
    if "sasl_oauth_token_provider" not in options:
        options = {**SIGNED, **options}
    app.on(broker.at(listener), topic, **options)
    app.send(20)
    assert words in app.in_trouble(kind)
    app.send(20, every_s=0.02)
    (line,) = app.warnings
    assert "traces wait" in line
    assert words in line
    assert "canary" not in app.log + repr(stats())


@pytest.mark.parametrize(
    ("listener", "options", "words"),
    [
        ("MUTUAL", {}, "set ssl_cert_file"),
        ("MUTUAL", {"cert": "expired"}, "does not accept our certificate"),
        ("MUTUAL", {"cert": "stranger"}, "does not accept our certificate"),
        ("OTHERNAME", {}, "IP address mismatch"),
        ("EXPIRED", {}, "certificate has expired"),
        ("MUTUAL", {"ca": "stranger"}, "Set ssl_ca_file to the authority"),
        ("MUTUAL", {"ca": "system"}, "Set ssl_ca_file to the authority"),
    ],
)
def test_wrong_certificates_are_said_in_one_line(
    broker: SecuredKafka,
    topic: str,
    app: App,
    authority: Authority,
    stranger: Authority,
    listener: str,
    options: dict[str, str],
    words: str,
) -> None:
    ca = {"stranger": str(stranger.ca), "system": None}.get(options.get("ca", ""), authority.ca)
    given: dict[str, Any] = {"security_protocol": "SSL", "ssl_ca_file": ca and str(ca)}
    if "cert" in options:
        issuer = stranger if options["cert"] == "stranger" else authority
        files = issuer.issue(f"{USER}-{options['cert']}", expired=options["cert"] == "expired")
        given |= dict(zip(("ssl_cert_file", "ssl_key_file"), map(str, files), strict=True))
    app.on(broker.at(listener), topic, **given)
    app.send(20)
    assert words in app.in_trouble("certificate")
    app.send(20, every_s=0.02)
    (line,) = app.warnings
    assert words in line


def test_what_is_mended_on_disk_counts_without_a_restart(
    broker: SecuredKafka,
    topic: str,
    app: App,
    authority: Authority,
    stranger: Authority,
    here: Path,
) -> None:
    ca, password = here / "ca.pem", here / "password"
    ca.write_bytes(stranger.ca.read_bytes())
    password.write_text(WRONG)
    options: dict[str, Any] = {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_username": USER,
        "sasl_password_file": str(password),
        "ssl_ca_file": str(ca),
    }
    app.on(broker.at("SIGNEDTLS"), topic, **options)
    app.send(10)
    app.in_trouble("certificate")
    ca.write_bytes(authority.ca.read_bytes())
    app.in_trouble("authentication")
    password.unlink()
    assert "sasl_password_file" in app.in_trouble("settings")
    password.write_text(f"{PASSWORD}\n")
    app.delivers()
    assert arrived(broker.bootstrap_servers, topic) == Counter(range(10))
    assert len(app.warnings) == 3, app.warnings
    assert "canary" not in app.log
    assert "sending traces to" in app.log


def test_a_token_that_expires_is_read_anew(
    broker: SecuredKafka, topic: str, app: App, here: Path
) -> None:
    file = here / "token"
    file.write_text(token(valid_s=2))
    options = {**TOKEN, "sasl_oauth_token_provider": None, "sasl_oauth_token_file": str(file)}
    app.on(broker.at("SIGNED"), topic, **options)
    for _ in range(30):
        app.send(2, every_s=0.1)
        file.write_text(token(valid_s=2))
    app.delivers()
    assert arrived(broker.bootstrap_servers, topic) == Counter(range(60))
    assert app.warnings == []


def test_a_key_with_a_password_does_not_ask_the_terminal(
    broker: SecuredKafka, topic: str, app: App, authority: Authority
) -> None:
    certificate, key = authority.issue("locked", password=WRONG)
    files = {"ssl_cert_file": str(certificate), "ssl_key_file": str(key)}
    app.on(broker.at("MUTUAL"), topic, security_protocol="SSL", **files)
    assert "its password cannot be used" in app.in_trouble("settings")


def test_an_app_that_ends_at_once_still_signs_in(broker: SecuredKafka, topic: str) -> None:
    code = (
        "from tests.producer.traffic import enable, send\n"
        f"enable(bootstrap_servers={broker.at('SIGNED')!r}, topic={topic!r}, mlflow=False,\n"
        f"    exit_timeout_s=60, sasl_mechanism='SCRAM-SHA-256', **{SIGNED!r})\n"
        "send(100)\n"
    )
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stderr == ""
    assert time.monotonic() - begun < 50
    assert sum(arrived(broker.bootstrap_servers, topic).values()) == 100
