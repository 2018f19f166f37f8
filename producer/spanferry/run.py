"""`spanferry run [--option value ...] -- command ...`: the command, with spanferry enabled in it.

Options become variables, the folder with our sitecustomize goes onto PYTHONPATH, and the command takes
this process's place: its id, its signals, its exit code. What it starts inherits both.
"""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import spanferry_start
from spanferry.settings import ConfigurationError, Settings, load_settings, switched_off, variable
from spanferry_schemas.security import SECRETS

__all__ = ["add_arguments", "environment_of", "run"]

_USAGE_EXIT_CODE: Final = 2
_NOT_EXECUTABLE_EXIT_CODE: Final = 126
_NOT_FOUND_EXIT_CODE: Final = 127
"""As shells have it."""

_SITE: Final = str(Path(spanferry_start.__file__).parent / "site")
_ENABLED: Final = "SPANFERRY_ENABLED"
_OPTIONS: Final = [name for name in Settings.__struct_fields__ if name not in SECRETS]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See the command `spanferry`."""
    parser.usage = "spanferry run [--option value ...] [--] command ..."
    parser.epilog = (
        "SPANFERRY_ENABLED=false, or ENABLE_MLFLOW_TRACING=false alone, leaves the command as it is. "
        "Exit code 2 where an option is missing or wrong; else the command's."
    )
    group = parser.add_argument_group("settings", "all of them in docs/settings.md")
    for name in _OPTIONS:
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(flag, metavar="X", help=f"instead of {variable(name)}")
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Become the command. Returns only where that cannot be: an exit code, and what is wrong said."""
    words: list[str] = args.words[1:] if args.words[:1] == ["--"] else args.words
    if not words:
        return _refuse("there is no command: spanferry run -- uvicorn app:app", _USAGE_EXIT_CODE)
    given = {name: value for name in _OPTIONS if (value := getattr(args, name)) is not None}
    try:
        environment = environment_of(given, os.environ)
    except ConfigurationError as error:
        return _refuse(str(error), _USAGE_EXIT_CODE)
    for ignored in ("SIGPIPE", "SIGXFSZ"):  # by this interpreter, and a command would inherit that
        with contextlib.suppress(AttributeError):
            signal.signal(getattr(signal, ignored), signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(words[0], words, environment)  # noqa: S606  that is what it is for
    except (FileNotFoundError, NotADirectoryError):
        return _refuse(f"there is no command {words[0]!r}", _NOT_FOUND_EXIT_CODE)
    except OSError as error:
        return _refuse(f"{words[0]}: {error.strerror}", _NOT_EXECUTABLE_EXIT_CODE)


def environment_of(given: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """The variables that have a process enabled, over those before; these alone where it is off.

    Raises ConfigurationError where a process with them would not be.
    """
    if switched_off(before):
        return dict(before)
    said = before.get(_ENABLED, "")
    if said.strip() and not spanferry_start.switch(before):
        raise ConfigurationError(f"{_ENABLED}={said!r} is neither true nor false")
    after = {**before, **{variable(name): value for name, value in given.items()}}
    if not after.get(variable("bootstrap_servers"), "").strip():
        raise ConfigurationError(
            "bootstrap_servers is not set: give --bootstrap-servers host:9092, "
            f"or set {variable('bootstrap_servers')}"
        )
    load_settings({}, after)
    before_path = after.get("PYTHONPATH", "")
    others = [one for one in before_path.split(os.pathsep) if one != _SITE] if before_path else []
    after["PYTHONPATH"] = os.pathsep.join([_SITE, *others])
    after[_ENABLED] = "true"
    after[spanferry_start.BY_RUN] = "true"
    return after


def _refuse(message: str, code: int) -> int:
    sys.stderr.write(f"spanferry run: {message}\n")
    return code
