"""The `spanferry` command. Every subcommand is imported only when it is called."""

import argparse
import importlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, NoReturn

from spanferry_worker.errors import FatalError

__all__ = ["entry", "main"]

_FATAL_EXIT_CODE: Final = 3


class _Command(NamedTuple):
    """A subcommand: its line in --help, and the module with `add_arguments` and `run`."""

    help: str
    module: str


_COMMANDS: Final = {
    "run": _Command("an app, with tracing switched on in it", "spanferry.run"),
    "worker": _Command("carry traces from Kafka into MLflow", "spanferry_worker.cli_worker"),
    "top": _Command("what workers do, live on the terminal", "spanferry_worker.top.cli"),
    "topics": _Command("create and check the topics", "spanferry_worker.cli_topics"),
    "dlq": _Command("look at dead letters, and replay them", "spanferry_worker.dlq.cli"),
    "ledger": _Command("what became of all that was produced", "spanferry_worker.ledger.cli"),
    "sampling": _Command("why traces are kept, and what if", "spanferry_worker.sampling.cli"),
    "undrop": _Command(
        "store what sampling has cut or dropped", "spanferry_worker.sampling.undrop"
    ),
    "retention": _Command("delete old traces from MLflow", "spanferry_worker.retention.cli"),
    "spool": _Command("what apps could not send yet", "spanferry.spool.cli"),
    "doctor": _Command("say what is wrong, and prove the way", "spanferry_worker.doctor.cli"),
    "dev": _Command("Kafka, MLflow and a worker for development", "spanferry_worker.dev.dev"),
    "demo": _Command("the same with an app and traffic", "spanferry_worker.dev.demo"),
}


def entry() -> NoReturn:
    """`spanferry` as a process: run the command and end, also where a thread hangs in the store."""
    code = main()
    own = threading.main_thread()
    if any(thread is not own and not thread.daemon for thread in threading.enumerate()):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code (2: wrong usage, 3: can never work as it is set up)."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="spanferry", description="MLflow traces over Kafka, without making the app wait."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run: Callable[[argparse.Namespace], int] | None = None
    for name, command in _COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=f"{command.help}.")
        if words and words[0] == name:
            module = importlib.import_module(command.module)
            module.add_arguments(sub)
            run = module.run
    args = parser.parse_args(words)
    assert run is not None
    args.arguments = words
    try:
        return run(args)
    except FatalError as error:
        sys.stderr.write(f"spanferry {args.command}: {error}\n")
        return _FATAL_EXIT_CODE
    except BrokenPipeError:
        # The reader of our output went away: no more output, no traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
