"""What can be wrong between the sender and Kafka: each kind with a name, and its remedy in words."""

import asyncio
import socket
import ssl
from enum import StrEnum
from typing import Final

from spanferry_schemas.security import Security

__all__ = [
    "TokenError",
    "Trouble",
    "TroubleKind",
    "refused_sign_in",
    "trouble_at",
    "trouble_of",
    "worst",
]


class TroubleKind(StrEnum):
    """Why a connection could not be made or could not go on. In `Stats.troubles`."""

    UNREACHABLE = "unreachable"
    """The name is not known, nothing listens there, or no route leads there."""
    SILENT = "silent"
    """It takes connections, or swallows them, and answers nothing in time."""
    PROTOCOL = "protocol"
    """What listens there does not speak Kafka in this way: another port, TLS or none."""
    CERTIFICATE = "certificate"
    AUTHENTICATION = "authentication"
    AUTHORIZATION = "authorization"
    """Signed in, but not allowed."""
    ADVERTISED = "advertised"
    """Brokers announce addresses that cannot be reached from here."""
    TOPIC = "topic"
    """It does not exist."""
    UNACKNOWLEDGED = "unacknowledged"
    """Kafka has a batch and does not say that it is stored."""
    LOST = "lost"
    """The connection has ended. What the next attempt meets says why."""
    REPLACED = "replaced"
    """Another cluster answers under the same address."""
    SETTINGS = "settings"
    """A file, a certificate's key or a token cannot be used."""
    TOO_LARGE = "too large"
    """The topic takes smaller batches only; they are cut."""
    REFUSED = "refused"
    """Kafka has answered with another error."""


_TELLING: Final = (
    TroubleKind.AUTHENTICATION,
    TroubleKind.SETTINGS,
    TroubleKind.CERTIFICATE,
    TroubleKind.AUTHORIZATION,
    TroubleKind.PROTOCOL,
    TroubleKind.SILENT,
)
"""Of several brokers' troubles the one to tell; the first of these, else any."""


class Trouble(Exception):  # noqa: N818  it is not always an error of ours
    """One kind, and a sentence that says what to do. No secret is in it."""

    def __init__(self, kind: TroubleKind, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class TokenError(OSError):
    """No token now; says which option, and no secret. An OSError is what aiokafka expects of a
    connection that fails."""


def worst(troubles: list[Trouble]) -> Trouble:
    """The one that tells most."""
    for kind in _TELLING:
        for trouble in troubles:
            if trouble.kind is kind:
                return trouble
    return troubles[0]


def trouble_at(address: str, error: BaseException, security: Security) -> Trouble:
    """What a failed connection to `address` means. `security`: the settings that it was made with."""
    if isinstance(error, Trouble):
        return error
    if isinstance(error, TokenError):
        return Trouble(TroubleKind.SETTINGS, str(error))
    if isinstance(error.__cause__, OSError | EOFError):  # why aiokafka has closed it
        return trouble_at(address, error.__cause__, security)
    return _trouble_by_kind(address, error, security)


def _trouble_by_kind(address: str, error: BaseException, security: Security) -> Trouble:
    protocol = security.security_protocol
    if isinstance(error, ssl.SSLCertVerificationError):
        return Trouble(
            TroubleKind.CERTIFICATE,
            f"the certificate of {address} is not accepted: {_said(error)}. Set "
            "ssl_ca_file to the authority that signed it, and reach the broker by a name that is in it",
        )
    if isinstance(error, ssl.SSLError):
        return _tls_trouble(address, error)
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return Trouble(
            TroubleKind.SILENT,
            f"{address} does not answer (over {protocol}): it hangs, something on the way swallows the "
            "connection, or security_protocol is not what its listener expects",
        )
    if isinstance(error, ConnectionResetError | BrokenPipeError | EOFError):
        return _closed(address, protocol)
    if isinstance(error, OSError | UnicodeError):
        return _unreachable(address, error)
    return _kafka_trouble(address, error, security)


def trouble_of(error: BaseException, topic: str) -> Trouble:
    """What ended a session that had begun."""
    if isinstance(error, Trouble):
        return error
    name = type(error).__name__
    if name in {"MessageSizeTooLargeError", "RecordListTooLargeError"}:
        return Trouble(TroubleKind.TOO_LARGE, f"{name}: topic {topic!r} takes smaller batches only")
    if "Authorization" in name:
        return Trouble(
            TroubleKind.AUTHORIZATION,
            f"{name}: this user may not write to topic {topic!r}, or not idempotently: give it the "
            "rights (ACLs) to describe and write the topic",
        )
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return Trouble(TroubleKind.SILENT, "Kafka does not answer in time")
    return Trouble(TroubleKind.REFUSED, f"{name}: {error}")


def _kafka_trouble(address: str, error: BaseException, security: Security) -> Trouble:
    from aiokafka import errors  # noqa: PLC0415  loaded on the sender's thread

    if isinstance(error, errors.UnsupportedSaslMechanismError):
        return Trouble(
            TroubleKind.AUTHENTICATION,
            f"{address} does not take sasl_mechanism={security.sasl_mechanism}: set it to one that "
            "the broker has enabled",
        )
    disagrees = isinstance(error, ValueError) and security.sasl_mechanism.startswith("SCRAM")
    if disagrees or isinstance(
        error, errors.SaslAuthenticationFailed | errors.AuthenticationFailedError
    ):
        return refused_sign_in(address, security)
    if isinstance(error, errors.IllegalSaslStateError):
        return Trouble(
            TroubleKind.PROTOCOL,
            f"{address} does not sign in anybody: set security_protocol to PLAINTEXT or SSL, or "
            "correct the port",
        )
    if isinstance(error, errors.KafkaConnectionError | AssertionError):
        return _closed(address, security.security_protocol)
    return Trouble(
        TroubleKind.PROTOCOL,
        f"{address} does not speak Kafka over {security.security_protocol} "
        f"({type(error).__name__}): correct the port, or security_protocol",
    )


def refused_sign_in(address: str, security: Security) -> Trouble:
    """The broker knows us not."""
    if security.sasl_mechanism == "OAUTHBEARER":
        what = (
            "the token: look at what sasl_oauth_token_provider or sasl_oauth_token_file gives, its "
            "expiry, scope and audience"
        )
    else:
        what = (
            f"user {security.sasl_username!r} or the password ({security.sasl_mechanism}): correct "
            "sasl_username, sasl_password or its file, and sasl_mechanism"
        )
    return Trouble(TroubleKind.AUTHENTICATION, f"{address} refuses {what}")


def _tls_trouble(address: str, error: ssl.SSLError) -> Trouble:
    reason = error.reason or str(error)
    if "ALERT" in reason.upper():
        return Trouble(
            TroubleKind.CERTIFICATE,
            f"{address} does not accept our certificate ({reason}): set ssl_cert_file and "
            "ssl_key_file to a client certificate that it trusts and that is not expired",
        )
    return Trouble(
        TroubleKind.PROTOCOL,
        f"{address} does not speak TLS with us ({reason}): where it is no TLS port set "
        "security_protocol to PLAINTEXT or SASL_PLAINTEXT",
    )


def _said(error: ssl.SSLCertVerificationError) -> str:
    return str(error.verify_message or error).rstrip(".")


def _unreachable(address: str, error: OSError | UnicodeError) -> Trouble:
    if isinstance(error, ConnectionRefusedError):
        what = f"nothing listens on {address}"
    elif isinstance(error, socket.gaierror | UnicodeError):
        what = f"the name of {address} is not known here ({error})"
    else:
        what = f"cannot reach {address}: {error}"
    return Trouble(TroubleKind.UNREACHABLE, f"KafkaConnectionError: {what}")


def _closed(address: str, protocol: str) -> Trouble:
    return Trouble(
        TroubleKind.PROTOCOL,
        f"{address} closes the connection (over {protocol}): it is shutting down, or set "
        "security_protocol to what its listener expects, with ssl_cert_file where it asks for one",
    )
