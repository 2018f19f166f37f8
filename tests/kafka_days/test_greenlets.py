"""Signing in where gevent has taken the threads' place: the sender's thread serves no greenlets."""

import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from tests.kafka_days.app import arrived
from tests.kafka_days.certificates import Authority
from tests.kafka_days.secured import PASSWORD, USER, SecuredKafka

pytestmark = pytest.mark.kafka

PROGRAM = """
import gevent.monkey
gevent.monkey.patch_all()
import time
import spanferry
from spanferry import outlet
from tests.kafka_days.secured import token
from tests.producer.traffic import a_trace
import msgspec

def asks():
    time.sleep(0.2)  # as a request to an identity provider, which lets other greenlets go on
    return token()

options = {options!r}
if options.get("sasl_mechanism") == "OAUTHBEARER":
    options["sasl_oauth_token_provider"] = asks
spanferry.enable(**options, collect_environment=False, mlflow=False, exit_timeout_s=15)
for number in range(20):
    outlet.current().put(msgspec.structs.replace(a_trace(), trace_id=number.to_bytes(16, "big")))
print(spanferry.flush(20), spanferry.stats().troubles)
"""


@pytest.mark.parametrize(
    ("listener", "options"),
    [
        ("SIGNED", {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER"}),
        (
            "SIGNEDTLS",
            {
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": "SCRAM-SHA-512",
                "sasl_username": USER,
                "sasl_password": PASSWORD,
            },
        ),
    ],
    ids=["a provider that waits", "scram-512-tls"],
)
def test_signing_in_beside_gevent(
    broker: SecuredKafka, topic: str, authority: Authority, listener: str, options: dict[str, Any]
) -> None:
    options |= {"bootstrap_servers": broker.at(listener), "topic": topic}
    if listener == "SIGNEDTLS":
        options["ssl_ca_file"] = str(authority.ca)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(options=options)],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stdout == "True {}\n", done.stderr
    assert arrived(broker.bootstrap_servers, topic) == Counter(range(20))
