"""A real Kafka with a listener for every way in: plain, behind a proxy, SASL, TLS, mTLS, and wrong ones."""

import base64
import json
import time
from pathlib import Path

from tests.kafka_days.certificates import Authority
from tests.services.kafka import KafkaServer
from tests.services.process import free_port

USER = "app"
PASSWORD = "canary-pa55word"
STRANGER = "stranger"
"""Signs in with the same password, and may do nothing."""

LISTENERS = {
    "PROXIED": "PLAINTEXT",
    "SIGNED": "SASL_PLAINTEXT",
    "SIGNEDTLS": "SASL_SSL",
    "MUTUAL": "SSL",
    "OTHERNAME": "SSL",
    "EXPIRED": "SSL",
    "NOWHERE": "PLAINTEXT",
}
SASL = """\
listener.name.{name}.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.{name}.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required \
user_app="{password}" user_stranger="{password}";
listener.name.{name}.scram-sha-256.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.{name}.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.{name}.oauthbearer.sasl.jaas.config=\
org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required \
unsecuredLoginStringClaim_sub="broker";
listener.name.{name}.oauthbearer.connections.max.reauth.ms=60000
"""
TLS = """\
listener.name.{name}.ssl.keystore.type=PEM
listener.name.{name}.ssl.keystore.location={keystore}
listener.name.{name}.ssl.truststore.type=PEM
listener.name.{name}.ssl.truststore.location={ca}
listener.name.{name}.ssl.client.auth={client_auth}
"""
RIGHTS = """\
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:app;User:CN=app
"""


class SecuredKafka(KafkaServer):
    """`at(listener)` is where each of LISTENERS listens; `proxy_port` is where PROXIED says it is."""

    def __init__(self, authority: Authority) -> None:
        super().__init__(heap_mb=320)
        self._external = ""  # whatever the environment names is not secured in these ways
        self._authority = authority
        self._listening = {name: free_port() for name in LISTENERS}
        self.proxy_port = free_port()
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            user = f"{mechanism}=[name={USER},iterations=4096,password={PASSWORD}]"
            self._format_arguments += ["--add-scram", user]

    def at(self, listener: str) -> str:
        """Bootstrap servers."""
        return f"127.0.0.1:{self._listening[listener]}"

    def _more_properties(self, folder: Path) -> str:
        port = self.bootstrap_servers.rpartition(":")[2]
        announced = {**self._listening, "PROXIED": self.proxy_port, "NOWHERE": free_port()}
        keystore = self._authority.keystore("broker")
        parts = [
            self._listeners("listeners", port, self._listening),
            self._listeners("advertised.listeners", port, announced),
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
            + ",".join(f"{name}:{protocol}" for name, protocol in LISTENERS.items())
            + "\n",
            RIGHTS,
        ]
        parts += [SASL.format(name=name, password=PASSWORD) for name in ("signed", "signedtls")]
        keystores = {
            "SIGNEDTLS": keystore,
            "MUTUAL": keystore,
            "OTHERNAME": self._authority.keystore("elsewhere", ip="10.1.2.3"),
            "EXPIRED": self._authority.keystore("old", expired=True),
        }
        for name, file in keystores.items():
            asks = "required" if name == "MUTUAL" else "none"
            ca = self._authority.ca
            parts.append(TLS.format(name=name.lower(), keystore=file, ca=ca, client_auth=asks))
        return "".join(parts)

    def _listeners(self, key: str, port: str, ports: dict[str, int]) -> str:
        own = [f"PLAINTEXT://127.0.0.1:{port}"]
        if key == "listeners":
            own.append(f"CONTROLLER://127.0.0.1:{self.controller_port}")
        own += [f"{name}://127.0.0.1:{number}" for name, number in ports.items()]
        return f"{key}={','.join(own)}\n"


def token(*, valid_s: float = 300, subject: str = USER) -> str:
    """A token that Kafka takes without a signature."""
    now = time.time()
    claims = {"sub": subject, "iat": now - 10, "exp": now + valid_s}
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + "."
