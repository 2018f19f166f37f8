"""Options of the app side: arguments of `enable()` over environment variables over defaults."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Final, Literal, TypedDict

import msgspec

from spanferry.process_metadata import process_metadata
from spanferry.redaction import Redact, Redaction, redaction_of
from spanferry_schemas import TOPIC
from spanferry_schemas.limits import RECORD_BYTES_FLOOR, RECORD_BYTES_MAX
from spanferry_schemas.security import SECRETS, Security, TokenSource
from spanferry_start import OFF, switch
from spanferry_start.libraries import AUTOLOG

__all__ = [
    "PAYLOAD_BYTES_FLOOR",
    "ConfigurationError",
    "DropPolicy",
    "Options",
    "Settings",
    "SpoolFsync",
    "SpoolMode",
    "load_settings",
    "switched_off",
    "variable",
]

_PREFIX: Final = "SPANFERRY_"
PAYLOAD_BYTES_FLOOR: Final = 256
"""No payload is cut shorter: a preview should say something."""

_MLFLOWS_SWITCH: Final = "ENABLE_MLFLOW_TRACING"


class ConfigurationError(ValueError):
    """An option is missing or wrong. Raised by `enable()` only, never while requests are served."""


class DropPolicy(StrEnum):
    """What gives way when the buffer is full. A trace is dropped whole, and counted."""

    NEWEST = "newest"
    OLDEST = "oldest"


class SpoolMode(StrEnum):
    """What goes to the spool on disk."""

    OVERFLOW = "overflow"
    """What fills more than half of the buffer, what comes while Kafka is away, what is left at the exit."""
    ALWAYS = "always"
    """Everything, before it is sent: what the sender has taken survives whatever ends the process."""


class SpoolFsync(StrEnum):
    """When the spool waits for the disk itself. A process's death alone never loses what is written."""

    NEVER = "never"
    INTERVAL = "interval"
    """Once a second: a power cut loses at most what came since."""
    ALWAYS = "always"
    """At each of the sender's looks, what it has written at the one before."""


class Settings(Security, frozen=True, kw_only=True):
    """Every option of the app side. Sizes in bytes, times in seconds."""

    bootstrap_servers: str = ""
    """Kafka brokers, `host:port[,host:port]`. Required."""
    topic: str = TOPIC
    experiment: str | None = None
    """MLflow experiment by name; resolved by the worker, never here."""
    experiment_id: str | None = None
    """MLflow experiment by id; goes before the name."""
    buffer_bytes: int = 64 * 1024 * 1024
    """What may wait for Kafka, in-flight batches included: about the memory that it takes."""
    drop: DropPolicy = DropPolicy.NEWEST
    """What gives way when the buffer is full: `newest`, the trace that comes, or `oldest`, those that
    wait longest. Also beside a spool, where that takes nothing or more comes than its disk can write."""
    spool_dir: str | None = None
    """A folder on a local disk for what Kafka does not take now. The processes of a host share it.
    What each end of a process loses with it and without: docs/operations.md."""
    spool_bytes: int = 1024 * 1024 * 1024
    """What the folder may take, all processes together."""
    spool_mode: SpoolMode = SpoolMode.OVERFLOW
    """`overflow`: what fills more than half of `buffer_bytes`, what comes while Kafka is away for more
    than a second, and what is left at the end. `always`: everything too, on disk before it is sent."""
    spool_fsync: SpoolFsync = SpoolFsync.INTERVAL
    """Against a power cut: wait for the disk once a second (`interval`), at each of the sender's looks
    (`always`), or `never`. The death of the process alone loses nothing that was written."""
    record_bytes_max: int = RECORD_BYTES_MAX
    """Largest record value; the topic's `max.message.bytes` must be larger."""
    batch_bytes: int = 512 * 1024
    """Records are put together up to this size before compression."""
    linger_s: float = 0.25
    """How often the sender looks into the buffer. Traces that come in between share batches: with 0.1 a
    trace costs the sender half as much again at 40 and at 150 traces/s (benchmarks/sender.py)."""
    compression: str = "zstd"
    """zstd (at its fastest level), lz4, gzip, snappy or none."""
    fragment_bytes: int = 256 * 1024
    """A trace still open sends what it has once its ended spans are this large."""
    fragment_age_s: float = 5.0
    """... or this old."""
    exit_timeout_s: float = 3.0
    """How long the interpreter's exit may wait for Kafka."""
    client_id: str = "spanferry"
    collect_environment: bool = True
    """Attach source name and type, user and Git version as MLflow does."""
    mlflow: bool = True
    """Have MLflow's own API (mlflow.trace, start_span, autolog …) go through Kafka too."""
    accelerate: bool = True
    """Put spanferry's fast spans behind MLflow's API; without it MLflow makes its own, slower ones."""
    autolog: tuple[str, ...] = ()
    """Libraries of which MLflow logs all calls, from the app's import of one on, as if it had called
    `mlflow.<name>.autolog()`: `openai,langchain`, or a list."""
    redact: Redaction | None = None
    """What is replaced by a mark before it leaves the calling thread: see docs/redaction.md. A
    `spanferry.Redaction`, or words with commas between them or in a list: `presets:api-keys`,
    `presets:all`, `field:ssn`, `pattern:...`."""
    payload_bytes_max: int | None = None
    """Inputs, outputs and attributes that take more are cut to previews of this, and the span says so
    in `spanferry.cut`. By default half of `buffer_bytes`; 0: never."""
    budget_ms: float = 1.0
    """What recording may cost the app's threads for 10 KB of a trace, or a trace that has less, at the
    99th percentile. Near it less is recorded of values that are slow to record: see docs/operations.md.
    0: never."""
    metadata: dict[str, str] = {}
    """Attached to every trace, under what the trace sets itself: app version, deployment, region. A
    mapping; in the environment a JSON object or `key=value,key=value`."""

    def __post_init__(self) -> None:
        """Check what types cannot say. Raises ConfigurationError."""
        super().__post_init__()
        for problem in _problems(self):
            raise ConfigurationError(problem)


class Options(TypedDict, total=False):
    """The options as `enable()` takes them; None or absent means: from the environment."""

    bootstrap_servers: str | None
    topic: str | None
    experiment: str | None
    experiment_id: str | None
    buffer_bytes: int | None
    drop: DropPolicy | Literal["newest", "oldest"] | None
    spool_dir: str | None
    spool_bytes: int | None
    spool_mode: SpoolMode | Literal["overflow", "always"] | None
    spool_fsync: SpoolFsync | Literal["never", "interval", "always"] | None
    record_bytes_max: int | None
    batch_bytes: int | None
    linger_s: float | None
    compression: Literal["zstd", "lz4", "gzip", "snappy", "none"] | None
    fragment_bytes: int | None
    fragment_age_s: float | None
    exit_timeout_s: float | None
    client_id: str | None
    collect_environment: bool | None
    mlflow: bool | None
    accelerate: bool | None
    autolog: Sequence[str] | str | None
    redact: Redact | None
    payload_bytes_max: int | None
    budget_ms: float | None
    metadata: Mapping[str, object] | None
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] | None
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None
    sasl_username: str | None
    sasl_password: str | None
    sasl_password_file: str | None
    sasl_oauth_token_provider: TokenSource | str | None
    sasl_oauth_token_file: str | None
    ssl_ca_file: str | None
    ssl_cert_file: str | None
    ssl_key_file: str | None
    ssl_key_password: str | None
    ssl_key_password_file: str | None
    ssl_check_hostname: bool | None


def _problems(settings: Settings) -> list[str]:
    compressions = ("zstd", "lz4", "gzip", "snappy", "none")
    checks = [
        (
            not settings.bootstrap_servers.strip(),
            "bootstrap_servers is not set: pass enable(bootstrap_servers='host:9092') "
            "or set SPANFERRY_BOOTSTRAP_SERVERS",
        ),
        (not settings.topic, f"topic is empty: leave it out for {TOPIC!r}"),
        (
            settings.record_bytes_max < RECORD_BYTES_FLOOR,
            f"record_bytes_max={settings.record_bytes_max} is below {RECORD_BYTES_FLOOR}",
        ),
        (
            settings.buffer_bytes < settings.record_bytes_max,
            f"buffer_bytes={settings.buffer_bytes} must hold at least one record of "
            f"record_bytes_max={settings.record_bytes_max}",
        ),
        (
            settings.spool_bytes < settings.record_bytes_max,
            f"spool_bytes={settings.spool_bytes} must hold at least one record of "
            f"record_bytes_max={settings.record_bytes_max}",
        ),
        (
            (settings.payload_bytes_max or PAYLOAD_BYTES_FLOOR) < PAYLOAD_BYTES_FLOOR,
            f"payload_bytes_max={settings.payload_bytes_max} is below {PAYLOAD_BYTES_FLOOR}: "
            "0 switches it off",
        ),
        (settings.batch_bytes < 1024, f"batch_bytes={settings.batch_bytes} is below 1024"),
        (settings.linger_s <= 0, f"linger_s={settings.linger_s} must be above 0"),
        (settings.fragment_bytes < 1024, "fragment_bytes must be at least 1024"),
        (settings.fragment_age_s <= 0, "fragment_age_s must be above 0"),
        (settings.budget_ms < 0, "budget_ms must not be negative: 0 switches the guard off"),
        (settings.exit_timeout_s < 0, "exit_timeout_s must not be negative"),
        (
            settings.compression not in compressions,
            f"compression={settings.compression!r} is not one of {', '.join(compressions)}",
        ),
        (
            bool(settings.autolog) and not settings.mlflow,
            "autolog goes through MLflow's API: leave mlflow=False out",
        ),
    ]
    return [message for wrong, message in checks if wrong] + list(settings.problems())


def switched_off(environment: Mapping[str, str]) -> str:
    """The variable that says that there is to be no tracing at all, as NAME=value; else nothing.

    SPANFERRY_ENABLED goes before ENABLE_MLFLOW_TRACING, which cannot switch on.
    """
    said = switch(environment)
    if said is False:
        return f"SPANFERRY_ENABLED={environment['SPANFERRY_ENABLED']}"
    mlflows = environment.get(_MLFLOWS_SWITCH, "")
    if said is None and mlflows.strip().lower() in OFF:
        return f"{_MLFLOWS_SWITCH}={mlflows}"
    return ""


def variable(option: str) -> str:
    """The environment variable of an option."""
    return _PREFIX + option.upper()


def load_settings(arguments: Mapping[str, object], environment: Mapping[str, str]) -> Settings:
    """Settings from the arguments that are not None, else SPANFERRY_<OPTION>, else the default.

    The experiment also falls back to MLFLOW_EXPERIMENT_ID and MLFLOW_EXPERIMENT_NAME. Raises
    ConfigurationError naming the option, where it came from, and the remedy.
    """
    options: dict[str, Any] = {}
    _refuse_unknown(arguments)
    for field in msgspec.structs.fields(Settings):
        argument = arguments.get(field.name)
        name = variable(field.name)
        if argument is not None:
            options[field.name] = _convert(argument, field, field.name)
        elif environment.get(name):
            options[field.name] = _convert(environment[name], field, name)
    _experiment_from_mlflow(options, environment)
    settings = Settings(**options)
    for problem in settings.unreadable():
        raise ConfigurationError(problem)
    return settings


def _refuse_unknown(arguments: Mapping[str, object]) -> None:
    known = [field.name for field in msgspec.structs.fields(Settings)]
    for name in arguments:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ConfigurationError(f"there is no option {name!r}: {hint}")


def _experiment_from_mlflow(options: dict[str, Any], environment: Mapping[str, str]) -> None:
    if "experiment" in options or "experiment_id" in options:
        return
    if environment.get("MLFLOW_EXPERIMENT_ID"):
        options["experiment_id"] = environment["MLFLOW_EXPERIMENT_ID"]
    elif environment.get("MLFLOW_EXPERIMENT_NAME"):
        options["experiment"] = environment["MLFLOW_EXPERIMENT_NAME"]


def _convert(value: object, field: msgspec.structs.FieldInfo, origin: str) -> Any:
    try:
        if field.type == dict[str, str]:
            return process_metadata(value)
        if field.name == "autolog":
            return _flavors(value)
        if field.name == "sasl_oauth_token_provider":
            return value if callable(value) else msgspec.convert(value, str)
        if field.type == Redaction | None:
            return redaction_of(value)
        return msgspec.convert(value, field.type, strict=False)
    except ValueError as error:  # msgspec's ValidationError is one
        shown = "..." if field.name in SECRETS else repr(value)
        raise ConfigurationError(f"{origin}={shown} cannot be used: {error}") from error


def _flavors(value: object) -> tuple[str, ...]:
    words = value.split(",") if isinstance(value, str) else msgspec.convert(value, list[str])
    flavors = tuple(dict.fromkeys(word.strip() for word in words if word.strip()))
    for flavor in flavors:
        if flavor not in AUTOLOG:
            near = get_close_matches(flavor, AUTOLOG, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(AUTOLOG)}"
            raise ValueError(f"there is no {flavor!r}: {hint}")
    return flavors
