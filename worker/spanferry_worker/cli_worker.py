"""`spanferry worker`."""

import argparse
import os
import signal

from spanferry_worker.arguments import add_settings_arguments, settings_from
from spanferry_worker.telemetry import set_up_logging

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See cli."""
    add_settings_arguments(parser)
    parser.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Run a worker, or several under a supervisor, until SIGTERM or SIGINT."""
    # Until there is a policy to be read again: a supervisor passes it on to whom it has just started.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    settings = settings_from(args, os.environ)
    set_up_logging(settings.process.log_format, settings.process.log_level)
    if settings.process.processes > 1:
        from spanferry_worker.runtime.supervisor import run_supervisor  # noqa: PLC0415

        return run_supervisor(settings, args.arguments)
    from spanferry_worker.runtime.lifecycle import run_worker  # noqa: PLC0415
    from spanferry_worker.runtime.policy_file import SettingsSource  # noqa: PLC0415

    source = SettingsSource(lambda: settings_from(args, os.environ), args.config)
    return run_worker(settings, supervised=args.supervised, source=source)
