"""Settings and times as command line arguments, the same for every command that needs them."""

import argparse
import re
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from spanferry_schemas.security import SECRETS
from spanferry_worker.errors import SettingsError
from spanferry_worker.settings import FLAGS, Settings, load_settings
from spanferry_worker.telemetry import set_up_logging

__all__ = [
    "add_settings_arguments",
    "is_confirmed",
    "moment_ms",
    "nobody_to_ask",
    "operator_settings",
    "parse_since",
    "settings_from",
]

_UNITS_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

_HELP: Mapping[str, str] = {
    "bootstrap_servers": "Kafka brokers, host:port[,host:port]",
    "topic": "the traces' topic",
    "group": "the consumer group",
    "group_instance_id": "a name for static membership, kept over restarts",
    "tracking_uri": "where MLflow is: postgresql://, mysql://, sqlite:///, http(s)://",
    "experiment": "the experiment of traces that name none",
    "processes": "worker processes",
    "health_host": "address for /healthz, /readyz and /metrics",
    "health_port": "port for these; 0 for any",
    "log_format": "text or json",
    "log_level": "debug, info, warning or error",
}


def add_settings_arguments(parser: argparse.ArgumentParser, names: Collection[str] = FLAGS) -> None:
    """Add a flag for every one of these short names, `--config`, and `--set slice.key=value`.

    A command that leaves a name out may use the flag for something else, under another `dest`.
    """
    group = parser.add_argument_group("settings", "also by environment or file: docs/settings.md")
    for name in names:
        group.add_argument(f"--{name.replace('_', '-')}", metavar="X", help=_HELP[name])
    group.add_argument("--config", metavar="FILE", type=Path, help="a TOML file")
    group.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="settings",
        help="any setting, for example assemble.idle_s=10; may be repeated",
    )


def settings_from(args: argparse.Namespace, env: Mapping[str, str]) -> Settings:
    """The settings that the parsed arguments give. Raises SettingsError."""
    given: dict[str, object] = {}
    for text in args.settings:
        key, equals, value = text.partition("=")
        if not equals:
            shown = "..." if any(name in text for name in SECRETS) else text
            raise SettingsError(f"--set {shown}: give it as slice.key=value")
        given[key] = value
    flags = {name: getattr(args, name, None) for name in FLAGS}
    given |= {name: value for name, value in flags.items() if value is not None}
    return load_settings(given, env, args.config)


def operator_settings(args: argparse.Namespace, env: Mapping[str, str]) -> Settings:
    """The same for a command that asks Kafka something and prints the answer: errors alone are logged.

    Raises SettingsError, also where Kafka's address is missing.
    """
    settings = settings_from(args, env)
    set_up_logging("text", "error")
    if not settings.kafka.bootstrap_servers:
        raise SettingsError(
            "kafka.bootstrap_servers is not set: give --bootstrap-servers host:9092 "
            "or set SPANFERRY_BOOTSTRAP_SERVERS"
        )
    return settings


def parse_since(text: str, now_ms: int) -> int:
    """A time ago (`2h`) or an ISO time as milliseconds since 1970. Raises ValueError."""
    ago = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if ago is not None:
        return max(0, now_ms - int(ago[1]) * _UNITS_MS[ago[2]])
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, int(moment.timestamp() * 1000))


def moment_ms(text: str) -> int:
    """The type of an argument that is a time; see parse_since."""
    try:
        return parse_since(text, time.time_ns() // 1_000_000)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: give 30m, 2h, 7d or 2026-05-01T12:00"
        ) from None


def nobody_to_ask(doing: str) -> str:
    """What a command says that would ask first where nobody could answer. `doing`: what it asks before."""
    return f"asks before it {doing}, and here is nobody to ask: add --yes or --dry-run"


def is_confirmed(question: str) -> bool:
    """Ask whoever sits there; anything but a yes is a no."""
    return input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}
