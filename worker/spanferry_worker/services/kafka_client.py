"""What every Kafka client of ours shares: connection options, and the border for their exceptions."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, Final

from aiokafka import errors
from aiokafka.helpers import create_ssl_context

from spanferry_worker.errors import FatalError, SettingsError, TransientError, WorkerError
from spanferry_worker.settings import KafkaSettings

__all__ = ["close_quietly", "connection_options", "kafka_border", "stop_on_failure"]

_FATAL: Final = (
    errors.AuthenticationFailedError,
    errors.AuthenticationMethodNotSupported,
    errors.ClusterAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.InconsistentGroupProtocolError,
    errors.InvalidGroupIdError,
    errors.InvalidSessionTimeoutError,
    errors.InvalidTopicError,
    errors.MessageSizeTooLargeError,
    errors.SaslAuthenticationFailed,
    errors.TopicAuthorizationFailedError,
    errors.UnsupportedCodecError,
    errors.UnsupportedSaslMechanismError,
    ssl.SSLCertVerificationError,
)
"""Waiting does not help against these."""


@contextlib.contextmanager
def kafka_border(action: str) -> Generator[None]:
    """Let only WorkerErrors out: Transient, or Fatal where waiting does not help.

    TimeoutError is transient here; catch one's own deadlines inside.
    """
    try:
        yield
    except WorkerError:
        raise
    except _FATAL as error:
        raise FatalError(f"Kafka refuses: cannot {action}: {_words(error)}") from error
    except (errors.KafkaError, errors.ConsumerStoppedError, OSError) as error:
        raise TransientError(f"cannot {action}: {_words(error)}") from error


def _words(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def connection_options(settings: KafkaSettings) -> dict[str, Any]:
    """The arguments that consumers, producers and admin clients share. Raises SettingsError."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "client_id": settings.client_id,
        "request_timeout_ms": int(settings.request_timeout_s * 1000),
        "security_protocol": settings.security_protocol,
    }
    if settings.security_protocol.startswith("SASL"):
        options |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password,
        }
    if settings.security_protocol.endswith("SSL"):
        try:
            options["ssl_context"] = create_ssl_context(
                cafile=settings.ssl_ca_file,
                certfile=settings.ssl_cert_file,
                keyfile=settings.ssl_key_file,
            )
        except OSError as error:
            raise SettingsError(f"kafka.ssl_*_file: cannot be used: {_words(error)}") from error
    return options


@contextlib.asynccontextmanager
async def stop_on_failure(stop: Callable[[], Awaitable[None]]) -> AsyncGenerator[None]:
    """Release a half-started client where the body fails."""
    try:
        yield
    except BaseException:
        await close_quietly(stop)
        raise


async def close_quietly(stop: Callable[[], Awaitable[None]], timeout_s: float = 10.0) -> None:
    """Stop a client that may be broken, within bounds and without an error."""
    with contextlib.suppress(TimeoutError, errors.KafkaError, OSError):
        async with asyncio.timeout(timeout_s):
            await stop()
