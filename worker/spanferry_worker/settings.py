"""Every setting of the worker: arguments over environment over a TOML file over defaults."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from spanferry_schemas import TOPIC
from spanferry_schemas.security import SECRETS, Security
from spanferry_worker.errors import SettingsError
from spanferry_worker.settings_sources import Given, from_toml, nearest
from spanferry_worker.stages.archive import ArchivePolicy
from spanferry_worker.stages.assemble import AssemblePolicy
from spanferry_worker.stages.breaker import BreakerPolicy
from spanferry_worker.stages.consume import FlowPolicy
from spanferry_worker.stages.decode import ChunkPolicy
from spanferry_worker.stages.ledger import LedgerPolicy
from spanferry_worker.stages.requests import RequestPolicy
from spanferry_worker.stages.sample import SamplingPolicy
from spanferry_worker.stages.write import RetryPolicy, WritePolicy

__all__ = [
    "FLAGS",
    "CommitSettings",
    "ConsumeSettings",
    "DeadLetterSettings",
    "HealthSettings",
    "HttpSettings",
    "KafkaSettings",
    "LedgerSettings",
    "MlflowSettings",
    "ProcessSettings",
    "SampleSettings",
    "Settings",
    "load_policy",
    "load_settings",
    "require_for_worker",
]

_PREFIX: Final = "SPANFERRY_WORKER_"
_OWN_BYTES: Final = 256 * 1024 * 1024
"""For Python with MLflow, which take 250 to 285 MB by themselves."""
_STRUCTURED: Final = frozenset({"sample.rules", "sample.shadow", "http.headers"})
"""Tables in a TOML file; as an argument or a variable JSON."""


class KafkaSettings(Security, frozen=True, kw_only=True):
    """The cluster, the topic and our place in the consumer group."""

    bootstrap_servers: str = ""
    """Brokers, `host:port[,host:port]`. Required."""
    topic: str = TOPIC
    group: str = "spanferry"
    group_instance_id: str | None = None
    """Static membership: a name that this process keeps over restarts, so that a restart within
    `session_timeout_s` moves no partition. Each process needs its own; with `processes` a number
    is added."""
    client_id: str = "spanferry-worker"
    session_timeout_s: float = 45.0
    heartbeat_s: float = 3.0
    rebalance_timeout_s: float = 60.0
    """How long the group waits for a member to write and commit before it must rejoin."""
    poll_interval_max_s: float = 300.0
    request_timeout_s: float = 40.0
    fetch_bytes_max: int = 16 * 1024 * 1024
    partition_fetch_bytes_max: int = 1024 * 1024
    fetch_wait_s: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.topic or not self.group:
            raise ValueError("topic and group must not be empty")
        if self.heartbeat_s * 3 > self.session_timeout_s:
            raise ValueError("heartbeat_s must be at most a third of session_timeout_s")
        for problem in self.problems():
            raise ValueError(problem)


class ConsumeSettings(FlowPolicy, frozen=True, kw_only=True):
    """How much is taken and held; what happens when a partition goes or nothing moves."""

    revoke_flush_s: float = 20.0
    """When partitions go to another worker: how long what is decided may take to be written."""
    stall_s: float = 120.0
    """With records waiting and none read for this long, the consumer is made anew."""


class DeadLetterSettings(BreakerPolicy, frozen=True, kw_only=True):
    """Where what cannot be stored goes, and when that is too much to be true."""

    topic: str | None = None
    """Default: the traces' topic and `.dlq`."""


class SampleSettings(SamplingPolicy, frozen=True, kw_only=True):
    """What is kept of which traces. Read again, without a restart, when the file changes or on SIGHUP."""

    shadow: SamplingPolicy | None = None
    """A second policy, `[sample.shadow]`: it decides on every trace, without effect but on metrics."""
    fleet_topic: str | None = None
    """Where workers agree on budgets and on what is slow. Default: the traces' topic and `.sampling`."""
    dropped_topic: str | None = None
    """Where workers write down which traces were dropped, so that what comes late for them follows, and
    feedback brings them back. Used only where a rule can drop. Default: the traces' topic and `.dropped`."""
    remembered_bytes_max: int = 64 * 1024 * 1024
    """What a process remembers of traces that were cut or dropped: 24 bytes for every record of one. The
    oldest go first; a skeleton says in MLflow itself what it is, a dropped trace is forgotten."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.remembered_bytes_max < 1_000_000:
            raise ValueError("remembered_bytes_max must be at least 1000000")


class AssembleSettings(AssemblePolicy, frozen=True, kw_only=True):
    """When a trace is finished."""

    write_open_at_stop: bool = False
    """At SIGTERM write open traces as they stand, instead of leaving them to the next worker."""


class CommitSettings(Struct, frozen=True, kw_only=True):
    """How often offsets are committed."""

    interval_s: float = 1.0

    def __post_init__(self) -> None:
        if self.interval_s <= 0:
            raise ValueError("interval_s must be above 0")


class LedgerSettings(LedgerPolicy, frozen=True, kw_only=True):
    """The account of every record, kept over restarts."""

    enabled: bool = True
    topic: str | None = None
    """Compacted. Default: the traces' topic and `.ledger`. Without it workers go on, and forget their
    accounts when they end."""


class HealthSettings(Struct, frozen=True, kw_only=True):
    """Where /healthz, /readyz and /metrics are served."""

    host: str = "127.0.0.1"
    """`0.0.0.0` in a container."""
    port: int = 8790
    """0 takes any free port and logs it."""


class MlflowSettings(Struct, frozen=True, kw_only=True):
    """Where traces are stored."""

    tracking_uri: str = ""
    """postgresql://, mysql://, sqlite:///, http(s):// or databricks[://profile]. Required."""
    experiment: str = "Default"
    """For traces that name none."""
    create_experiments: bool = True
    """Make experiments that apps name and that are not there. Off: their traces go to the dead letters
    (`no_experiment`) until somebody has made them."""
    artifact_server: str = ""
    """The MLflow server (http://…) that serves artifacts, for a worker that writes into its database:
    attachments go there. Without it images stay in the spans as base64."""
    bulk: bool = True
    """Write new traces straight into a database's tables, many at once. Off: through MLflow's own code."""


class HttpSettings(RequestPolicy, frozen=True, kw_only=True):
    """Requests to a tracking server, where the tracking URI is http(s):// or Databricks. Credentials and TLS
    are MLflow's own variables."""


class ProcessSettings(Struct, frozen=True, kw_only=True):
    """The worker as processes."""

    processes: int = 1
    memory_bytes_max: int = 0
    """Resident memory that each process keeps to, within 150 MB of working room: it holds no more records
    than this leaves beside what Python with MLflow takes. 0: `consume.held_bytes_max` and 256 MiB, and one
    poll is held where that leaves less."""
    stop_s: float = 25.0
    """How long a stop may take: what is decided is written and committed, then we leave."""
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def __post_init__(self) -> None:
        if self.processes < 1 or self.stop_s <= 0 or self.memory_bytes_max < 0:
            raise ValueError(
                "processes must be at least 1, stop_s above 0, memory_bytes_max 0 or more"
            )


class Settings(Struct, frozen=True, kw_only=True):
    """Every setting, one slice for each part. Units are last in the names."""

    kafka: KafkaSettings = KafkaSettings()
    consume: ConsumeSettings = ConsumeSettings()
    decode: ChunkPolicy = ChunkPolicy()
    assemble: AssembleSettings = AssembleSettings()
    sample: SampleSettings = SampleSettings()
    write: WritePolicy = WritePolicy()
    retry: RetryPolicy = RetryPolicy()
    commit: CommitSettings = CommitSettings()
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    ledger: LedgerSettings = LedgerSettings()
    health: HealthSettings = HealthSettings()
    mlflow: MlflowSettings = MlflowSettings()
    archive: ArchivePolicy = ArchivePolicy()
    http: HttpSettings = HttpSettings()
    process: ProcessSettings = ProcessSettings()

    def __post_init__(self) -> None:
        consume = self.consume
        waiting_max = int(consume.held_bytes_max * consume.resume_ratio)
        if self.assemble.bytes_max > waiting_max:
            raise ValueError(
                f"assemble.bytes_max={self.assemble.bytes_max} must be at most consume.held_bytes_max"
                f" x consume.resume_ratio = {waiting_max}: raise held_bytes_max"
            )
        if self.decode.chunk_bytes_max > waiting_max:
            raise ValueError(
                f"decode.chunk_bytes_max={self.decode.chunk_bytes_max} must be at most "
                f"consume.held_bytes_max x consume.resume_ratio = {waiting_max}: raise held_bytes_max"
            )
        if consume.revoke_flush_s >= self.kafka.rebalance_timeout_s:
            raise ValueError(
                f"consume.revoke_flush_s={consume.revoke_flush_s:g} must be below "
                f"kafka.rebalance_timeout_s={self.kafka.rebalance_timeout_s:g}"
            )

    @property
    def memory_bytes_max(self) -> int:
        """What each process may take, working room apart."""
        return self.process.memory_bytes_max or self.consume.held_bytes_max + _OWN_BYTES

    @property
    def dead_letter_topic(self) -> str:
        """The topic for what cannot be stored."""
        return self.dead_letters.topic or f"{self.kafka.topic}.dlq"

    @property
    def dropped_topic(self) -> str:
        """The topic that says which traces were dropped."""
        return self.sample.dropped_topic or f"{self.kafka.topic}.dropped"

    @property
    def fleet_topic(self) -> str:
        """The topic where workers agree on what sampling depends on."""
        return self.sample.fleet_topic or f"{self.kafka.topic}.sampling"

    @property
    def ledger_topic(self) -> str:
        """The topic for the account of every record."""
        return self.ledger.topic or f"{self.kafka.topic}.ledger"


FLAGS: Final[Mapping[str, str]] = {
    "bootstrap_servers": "kafka.bootstrap_servers",
    "topic": "kafka.topic",
    "group": "kafka.group",
    "group_instance_id": "kafka.group_instance_id",
    "tracking_uri": "mlflow.tracking_uri",
    "experiment": "mlflow.experiment",
    "processes": "process.processes",
    "health_host": "health.host",
    "health_port": "health.port",
    "log_format": "process.log_format",
    "log_level": "process.log_level",
}
"""Short names, as flags (`--health-port`) and variables (`SPANFERRY_WORKER_HEALTH_PORT`)."""

_SHARED: Final[Mapping[str, str]] = {
    "SPANFERRY_BOOTSTRAP_SERVERS": "kafka.bootstrap_servers",
    "SPANFERRY_TOPIC": "kafka.topic",
    "MLFLOW_TRACKING_URI": "mlflow.tracking_uri",
    "MLFLOW_EXPERIMENT_NAME": "mlflow.experiment",
    **{f"SPANFERRY_{name.upper()}": f"kafka.{name}" for name in Security.__struct_fields__},
}
"""Variables of the app side and of MLflow, read where ours are not set."""


def load_settings(
    args: Mapping[str, object], env: Mapping[str, str], toml_path: Path | None = None
) -> Settings:
    """The settings in force. Raises SettingsError, which names key, origin and remedy.

    `args`: by short name (FLAGS) or by `slice.key`; None counts as not given. Empty variables count
    as not set.
    """
    given: dict[str, Given] = {}
    if toml_path is not None:
        given.update(from_toml(toml_path))
    given.update(_from_env(env))
    for name, value in args.items():
        if value is not None:
            flag = f"--{name.replace('_', '-')}" if name in FLAGS else f"--set {name}"
            given[FLAGS.get(name, name)] = Given(value, flag)
    return _build(given)


def load_policy(toml_path: Path) -> SampleSettings:
    """The section `[sample]` of a worker's file; the rest is not looked at. Raises SettingsError."""
    given = {key: one for key, one in from_toml(toml_path) if key.startswith("sample.")}
    return _build(given).sample


def require_for_worker(settings: Settings) -> None:
    """Raise SettingsError where the worker cannot start without what is missing."""
    if not settings.kafka.bootstrap_servers:
        raise SettingsError(
            "kafka.bootstrap_servers is not set: give --bootstrap-servers host:9092 "
            "or set SPANFERRY_BOOTSTRAP_SERVERS"
        )
    if not settings.mlflow.tracking_uri:
        raise SettingsError(
            "mlflow.tracking_uri is not set: give --tracking-uri postgresql://… or http://…, "
            "or set MLFLOW_TRACKING_URI"
        )


def _from_env(env: Mapping[str, str]) -> Iterator[tuple[str, Given]]:
    for name, key in _SHARED.items():
        if env.get(name):
            yield key, Given(env[name], name)
    names = {f"{_PREFIX}{flag.upper()}": key for flag, key in FLAGS.items()}
    names |= {_PREFIX + key.replace(".", "_").upper(): key for key in _keys()}
    for name, value in env.items():
        if not name.startswith(_PREFIX) or not value:
            continue
        if name not in names:
            raise SettingsError(f"{name} is not a setting{nearest(name, names)}")
        yield names[name], Given(value, name)


def _keys() -> list[str]:
    return [
        f"{part.name}.{field.name}"
        for part in msgspec.structs.fields(Settings)
        for field in msgspec.structs.fields(part.type)
    ]


def _build(given: Mapping[str, Given]) -> Settings:
    known = _keys()
    slices: dict[str, dict[str, Any]] = {}
    for key, (value, origin) in given.items():
        if key not in known:
            raise SettingsError(f"{key} (from {origin}) is not a setting{nearest(key, known)}")
        section, _, name = key.partition(".")
        slices.setdefault(section, {})[name] = _convert(key, value, origin)
    parts: dict[str, Any] = {}
    for part in msgspec.structs.fields(Settings):
        values = slices.get(part.name, {})
        try:
            parts[part.name] = part.type(**values)
        except ValueError as error:
            raise SettingsError(f"{part.name}: {error}{_origins(part.name, given)}") from None
    try:
        return Settings(**parts)
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _convert(key: str, value: object, origin: str) -> object:
    section, _, name = key.partition(".")
    part = next(f for f in msgspec.structs.fields(Settings) if f.name == section)
    field = next(f for f in msgspec.structs.fields(part.type) if f.name == name)
    kind = str if name == "sasl_oauth_token_provider" else field.type
    try:
        if isinstance(value, str) and value.startswith(("[", "{")) and key in _STRUCTURED:
            return msgspec.json.decode(value, type=kind)
        return msgspec.convert(value, kind, strict=False)
    except msgspec.DecodeError as error:
        shown = "..." if name in SECRETS else repr(value)
        text = str(error)
        if key in _STRUCTURED:
            raise SettingsError(f"{key} (from {origin}): {text}") from None
        raise SettingsError(f"{key}={shown} (from {origin}): {text.lower()}") from None


def _origins(section: str, given: Mapping[str, Given]) -> str:
    origins = [f"{k} from {g.origin}" for k, g in given.items() if k.startswith(f"{section}.")]
    return f" ({', '.join(origins)})" if origins else ""
