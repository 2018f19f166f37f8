"""How every Kafka client of ours proves who it is and whom it speaks to: one set of names for the app,
the worker and the commands. Standard library and msgspec only.

A secret given as a file is read again for every new connection, so that what is exchanged on disk
counts without a restart; certificates too.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    import ssl

__all__ = [
    "SECRETS",
    "Secret",
    "Security",
    "SecurityError",
    "TokenSource",
]

TokenSource: TypeAlias = Callable[[], Any]
"""Gives a token as text, or an awaitable of one. Called in a thread of its own."""

SECRETS: Final = frozenset({"sasl_password", "ssl_key_password"})
"""Options whose values nobody may see."""

_MASK: Final = "***"
_FILES: Final = (
    "sasl_password_file",
    "sasl_oauth_token_file",
    "ssl_ca_file",
    "ssl_cert_file",
    "ssl_key_file",
    "ssl_key_password_file",
)


class SecurityError(Exception):
    """A file or a token provider cannot be used now. The message names the option, and no secret."""


class Secret(str):
    """A text that shows itself to nobody: not by repr, str or format. `encode` gives what it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{_MASK}'"

    def __str__(self) -> str:
        return _MASK

    def __format__(self, format_spec: str) -> str:
        return _MASK


class Security(Struct, frozen=True, kw_only=True):
    """How a Kafka client gets in. The names are Kafka's."""

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """What the listener expects: `SSL` is TLS, `SASL_SSL` TLS and a sign-in."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = "PLAIN"
    sasl_username: str | None = None
    sasl_password: str | None = None
    """Shown nowhere. Rather by environment or file than as an argument."""
    sasl_password_file: str | None = None
    """A file with the password, read for every new connection."""
    sasl_oauth_token_provider: TokenSource | str | None = None
    """For OAUTHBEARER: `module:function`, or in code the function itself, which gives a token that is
    valid now. Called for every new connection."""
    sasl_oauth_token_file: str | None = None
    """... or a file with the token, read for every new connection."""
    ssl_ca_file: str | None = None
    """PEM: who may have signed the brokers' certificates. Default: the system's authorities."""
    ssl_cert_file: str | None = None
    """PEM: the client's own certificate, with its chain, where brokers ask for one (mTLS)."""
    ssl_key_file: str | None = None
    """PEM: its key, where that is not in `ssl_cert_file`."""
    ssl_key_password: str | None = None
    """Of the key, where it is encrypted. Shown nowhere."""
    ssl_key_password_file: str | None = None
    """A file with it, read for every new connection."""
    ssl_check_hostname: bool = True
    """Whether a broker's certificate must be for the name that it is reached by."""

    def __post_init__(self) -> None:
        """Hide the secrets."""
        for name in SECRETS:
            value = getattr(self, name)
            if value is not None and not isinstance(value, Secret):
                msgspec.structs.force_setattr(self, name, Secret(value))

    @property
    def signs_in(self) -> bool:
        """Whether SASL is spoken."""
        return self.security_protocol.startswith("SASL")

    @property
    def encrypts(self) -> bool:
        """Whether TLS is spoken."""
        return self.security_protocol.endswith("SSL")

    def problems(self) -> Iterator[str]:
        """What does not go together, in words. Looks at no file."""
        yield from self._problems_of_sasl()
        tls = [name for name in _given(self) if name.startswith("ssl_")]
        if tls and not self.encrypts:
            yield (
                f"{tls[0]} is given, but security_protocol={self.security_protocol} speaks no TLS: "
                "set it to SSL or SASL_SSL"
            )
        if self.ssl_key_file and not self.ssl_cert_file:
            yield "ssl_key_file needs ssl_cert_file"
        if (self.ssl_key_password or self.ssl_key_password_file) and not self.ssl_cert_file:
            yield "ssl_key_password needs ssl_cert_file and its key"
        if self.ssl_key_password and self.ssl_key_password_file:
            yield "ssl_key_password and ssl_key_password_file are both given: leave one out"

    def _problems_of_sasl(self) -> Iterator[str]:
        protocol, mechanism = self.security_protocol, self.sasl_mechanism
        source = self.sasl_oauth_token_provider
        if isinstance(source, str) and not all(part.strip() for part in _spec(source)):
            yield f"sasl_oauth_token_provider={source!r} is not module:function"
        if not self.signs_in:
            given = [name for name in _given(self) if name.startswith("sasl_")]
            if given:
                yield (
                    f"{given[0]} is given, but security_protocol={protocol} does not sign in: "
                    "set it to SASL_SSL, or to SASL_PLAINTEXT"
                )
        elif mechanism == "OAUTHBEARER":
            if (source is None) == (self.sasl_oauth_token_file is None):
                yield (
                    f"{protocol} with OAUTHBEARER needs sasl_oauth_token_provider or "
                    "sasl_oauth_token_file, one of them"
                )
        elif not self.sasl_username or not (self.sasl_password or self.sasl_password_file):
            yield (
                f"{protocol} with {mechanism} needs sasl_username and sasl_password or "
                "sasl_password_file"
            )
        elif self.sasl_password and self.sasl_password_file:
            yield "sasl_password and sasl_password_file are both given: leave one out"

    def unreadable(self) -> Iterator[str]:
        """Files that cannot be read now, in words."""
        for name in _FILES:
            path = getattr(self, name)
            if path:
                try:
                    with Path(path).open("rb"):
                        pass
                except (OSError, ValueError) as error:
                    yield f"{name}={path} cannot be read: {_words(error)}"

    def client_options(self) -> dict[str, Any]:
        """aiokafka's arguments, without the token provider. Reads files. Raises SecurityError."""
        options: dict[str, Any] = {"security_protocol": self.security_protocol}
        if self.signs_in:
            options["sasl_mechanism"] = self.sasl_mechanism
            if self.sasl_mechanism != "OAUTHBEARER":
                options["sasl_plain_username"] = self.sasl_username
                options["sasl_plain_password"] = self._password()
        if self.encrypts:
            options["ssl_context"] = self._ssl_context()
        return options

    def token_source(self) -> TokenSource:
        """What gives a token; may block. Imports the provider's module. Raises SecurityError."""
        source = self.sasl_oauth_token_provider
        if source is None:
            return lambda: _text_of("sasl_oauth_token_file", self.sasl_oauth_token_file or "")
        if not isinstance(source, str):
            return source
        module, function = _spec(source)
        try:
            found: Any = getattr(importlib.import_module(module), function)
        except Exception as error:
            raise SecurityError(
                f"sasl_oauth_token_provider={source} cannot be imported: {type(error).__name__}"
            ) from error
        if not callable(found):
            raise SecurityError(f"sasl_oauth_token_provider={source} cannot be called")
        provider: TokenSource = found
        return provider

    def masked(self, text: str) -> str:
        """The text without our secrets, whoever has put them there."""
        for secret in (self.sasl_password, self.ssl_key_password):
            if secret:
                text = text.replace(secret, _MASK)
        return text

    def _password(self) -> Secret | str | None:
        if self.sasl_password_file:
            return Secret(_text_of("sasl_password_file", self.sasl_password_file))
        return self.sasl_password

    def _ssl_context(self) -> "ssl.SSLContext":
        import ssl  # noqa: PLC0415  apps without TLS need not load it

        try:
            context = ssl.create_default_context(cafile=self.ssl_ca_file)
        except (OSError, ValueError) as error:
            raise SecurityError(
                f"ssl_ca_file={self.ssl_ca_file} cannot be used: {_words(error)}"
            ) from error
        context.check_hostname = self.ssl_check_hostname
        if self.ssl_cert_file:
            password = self.ssl_key_password
            if self.ssl_key_password_file:
                password = Secret(_text_of("ssl_key_password_file", self.ssl_key_password_file))
            try:
                # Without any password OpenSSL would ask for one on the terminal, and wait.
                context.load_cert_chain(self.ssl_cert_file, self.ssl_key_file, password or "")
            except (OSError, ValueError) as error:
                raise SecurityError(
                    f"ssl_cert_file={self.ssl_cert_file} with ssl_key_file={self.ssl_key_file} and "
                    f"its password cannot be used: {_words(error)}"
                ) from error
        return context


def _given(security: Security) -> list[str]:
    """Options that are not at their defaults."""
    defaults: Mapping[str, Any] = {
        field.name: field.default for field in msgspec.structs.fields(Security)
    }
    return [name for name, default in defaults.items() if getattr(security, name) != default]


def _spec(source: str) -> tuple[str, str]:
    module, _, function = source.partition(":")
    return module, function


def _text_of(name: str, path: str) -> str:
    try:
        text = Path(path).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise SecurityError(f"{name}={path} cannot be read: {_words(error)}") from None
    if not text:
        raise SecurityError(f"{name}={path} is empty")
    return text


def _words(error: Exception) -> str:
    """Without what was read: a decoding error would show it."""
    if isinstance(error, UnicodeError):
        return "it is not UTF-8 text"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
