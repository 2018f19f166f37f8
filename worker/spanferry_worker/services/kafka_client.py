"""What every Kafka client of ours shares: connection options, and the border for their exceptions."""

import asyncio
import contextlib
import inspect
import logging
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, errors
from aiokafka.abc import AbstractTokenProvider

from spanferry_schemas.security import SecurityError, TokenSource
from spanferry_worker.errors import FatalError, SettingsError, TransientError, WorkerError
from spanferry_worker.settings import KafkaSettings

__all__ = [
    "close_quietly",
    "connection_options",
    "kafka_border",
    "lone_consumer",
    "reach_border",
    "stop_on_failure",
]

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

_TOKEN_S: Final = 30.0


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


class _Complaints(logging.Handler):
    """What aiokafka says of each broker that it cannot use, which its own error leaves out."""

    def __init__(self, servers: str) -> None:
        super().__init__(logging.ERROR)
        self._servers = servers
        self.words: dict[str, str] = {}
        """By broker, of those that were asked for: other clients may fail meanwhile."""

    def emit(self, record: logging.LogRecord) -> None:
        """Of "Unable connect to host:port: error" as the error's name and text."""
        match record.args:
            case (host, port, BaseException() as error) if f"{host}:{port}" in self._servers:
                self.words[f"{host}:{port}"] = _words(error)
            case _:
                pass


@contextlib.contextmanager
def reach_border(settings: KafkaSettings) -> Generator[None]:
    """`kafka_border` around what connects first: the error says why no broker could be used."""
    complaints, log = _Complaints(settings.bootstrap_servers), logging.getLogger("aiokafka")
    log.addHandler(complaints)
    try:
        with kafka_border(f"reach Kafka at {settings.bootstrap_servers}"):
            try:
                yield
            except errors.KafkaConnectionError as error:
                if complaints.words:
                    words = "; ".join(f"{at}: {why}" for at, why in complaints.words.items())
                    raise errors.KafkaConnectionError(words) from error
                raise
    finally:
        log.removeHandler(complaints)


def _words(error: BaseException) -> str:
    text, name = str(error).strip(), type(error).__name__
    if name in text:
        return text  # aiokafka's do
    return f"{name}: {text}" if text else name


def connection_options(settings: KafkaSettings) -> dict[str, Any]:
    """The arguments that consumers, producers and admin clients share. Raises SettingsError."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "client_id": settings.client_id,
        "request_timeout_ms": int(settings.request_timeout_s * 1000),
    }
    try:
        options |= settings.client_options()
        if settings.signs_in and settings.sasl_mechanism == "OAUTHBEARER":
            options["sasl_oauth_token_provider"] = _Tokens(settings.token_source())
    except SecurityError as error:
        raise SettingsError(f"kafka.{error}") from error
    return options


def lone_consumer(settings: KafkaSettings, **options: Any) -> AIOKafkaConsumer:
    """A consumer outside of any group, not started: nothing is committed, and it begins at the earliest."""
    return AIOKafkaConsumer(
        **connection_options(settings),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        **options,
    )


class _TokenError(OSError):
    """No token now. An OSError is what aiokafka expects of a connection that fails."""


class _Tokens(AbstractTokenProvider):
    """A token for every new connection, as aiokafka asks for it."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    # aiokafka's base class shows no type here, and means a text.
    async def token(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Never shows what the provider's errors say: it may be secret."""
        try:
            async with asyncio.timeout(_TOKEN_S):
                token = await asyncio.to_thread(self._source)
                if inspect.isawaitable(token):
                    token = await token
        except SecurityError as error:
            raise _TokenError(f"kafka.{error}") from None
        except Exception as error:  # noqa: BLE001  somebody else's code
            raise _TokenError(
                f"kafka.sasl_oauth_token_provider failed: {type(error).__name__}"
            ) from None
        if not isinstance(token, str) or not token:
            raise _TokenError("kafka.sasl_oauth_token_provider gave no text")
        return token


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
