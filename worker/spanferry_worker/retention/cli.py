"""`spanferry retention`."""

import argparse
import contextlib
import functools
import os
import random
import sys
import time
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Final

from spanferry_worker.arguments import is_confirmed, nobody_to_ask, settings_from
from spanferry_worker.errors import PoisonError, SettingsError, TransientError
from spanferry_worker.retention import text
from spanferry_worker.retention.arguments import add_arguments, selection_from
from spanferry_worker.retention.deleting import Account, Deletion, Order
from spanferry_worker.retention.stopping import Stop
from spanferry_worker.retention.survey import Finding, survey
from spanferry_worker.retention.table import Patience
from spanferry_worker.services.clock import SystemClock
from spanferry_worker.services.mlflow_environment import prepare_environment
from spanferry_worker.settings import Settings
from spanferry_worker.stages.retention import DeletionPace, Experiment
from spanferry_worker.telemetry import set_up_logging
from spanferry_worker.text import cut

if TYPE_CHECKING:
    from spanferry_worker.services.mlflow_retention import MlflowTraces

__all__ = ["add_arguments", "run"]

_OK: Final = 0
_NOT_ALL: Final = 1
_USAGE: Final = 2
_UNREACHABLE: Final = 3
_YOUNG_S: Final = 3600.0
"""Younger traces are left alone without --force: their spans may still be on the way."""
_GIVE_UP_S: Final = 300.0
"""How long MLflow may fail before we do."""
_TELL_S: Final = 1.0
_TELL_LOG_S: Final = 30.0
"""How often progress is shown on a terminal, and written where there is none."""
_NAME_WIDTH: Final = 60


def run(args: argparse.Namespace) -> int:
    """0 where all that should go is gone, 1 where some of it stays, 2 wrong usage.

    3 where MLflow cannot be reached or refuses; the rest of those raise FatalError.
    """
    settings = settings_from(args, os.environ)
    set_up_logging("text", "error")
    if not settings.mlflow.tracking_uri:
        raise SettingsError(
            "mlflow.tracking_uri is not set: give --tracking-uri postgresql://… or http://…, "
            "or set MLFLOW_TRACKING_URI"
        )
    wrong = _wrong(settings, args, SystemClock().now_ms())
    if wrong:
        _complain(wrong)
        return _USAGE
    stop = Stop()
    try:
        with _opened(settings) as table:
            return _Run(settings, args, table, stop).run()
    except TransientError as error:
        _complain(str(error))
        return _UNREACHABLE
    except PoisonError as error:
        _complain(f"MLflow refuses: {error}")
        return _UNREACHABLE
    except KeyboardInterrupt:
        _complain("interrupted; what is deleted is gone, the next run goes on from there")
        return _NOT_ALL


def _wrong(settings: Settings, args: argparse.Namespace, now_ms: int) -> str:
    """What is wrong with the command line; empty where nothing is."""
    asks = not (args.yes or args.dry_run)
    if asks and (args.json or not sys.stdin.isatty()):
        return nobody_to_ask("deletes")
    if args.but_experiments and not args.all_experiments:
        return "--except-experiment goes with --all-experiments"
    if args.older_than > now_ms:
        return "--older-than: that time has not come yet"
    young_s = max(_YOUNG_S, 2 * settings.assemble.age_s)
    if not args.force and now_ms - args.older_than < young_s * 1000:
        return (
            f"--older-than: of traces younger than {young_s / 60:.0f} minutes parts may still be on the way, "
            "and would store them again: give an older time, or add --force"
        )
    return ""


class _Run:
    """One call of the command, over an open MLflow."""

    def __init__(
        self, settings: Settings, args: argparse.Namespace, table: "MlflowTraces", stop: Stop
    ) -> None:
        self._args = args
        self._table = table
        self._stop = stop
        chance = random.Random()  # noqa: S311 - spreads retries
        self._patience = Patience(settings.retry, _GIVE_UP_S, time.monotonic, stop.wait, chance)
        self._selection = selection_from(args)

    def run(self) -> int:
        args = self._args
        asks = not (args.yes or args.dry_run)
        with self._stop.listening():
            findings, total = self._look(counting=asks or args.dry_run or self._selection.is_exact)
        if self._stop.asked:
            _complain("interrupted; nothing was deleted")
            return _NOT_ALL
        self._show(findings, total)
        for finding in findings:
            if finding.error is not None:
                _complain(f"{_named(finding.experiment)}: {finding.error}")
        failed = [finding for finding in findings if finding.error is not None]
        code = _OK if not failed else _UNREACHABLE if len(failed) == len(findings) else _NOT_ALL
        if args.dry_run or total == 0:
            return code
        if asks and not is_confirmed("Delete them for good?"):
            _say("nothing was deleted")
            return _NOT_ALL
        with self._stop.listening():
            return max(code, self._delete(findings, total))

    def _look(self, *, counting: bool) -> tuple[list[Finding], int | None]:
        """What there is, and how much of it; None where that would take as long as to delete it."""
        experiments = _experiments(self._table, self._patience, self._args)
        if not counting:
            return [Finding(experiment) for experiment in experiments], None
        findings = survey(
            self._table, experiments, self._selection, self._patience, lambda: self._stop.asked
        )
        return findings, sum(finding.traces for finding in findings)

    def _show(self, findings: Sequence[Finding], total: int | None) -> None:
        if self._args.json:
            if self._args.dry_run:
                sys.stdout.write(text.findings_json(findings, self._selection))
            elif total == 0:
                nothing = self._deletion()
                sys.stdout.write(text.deletion_json(nothing, findings, self._selection))
            return
        if total is None:
            _say(text.about(self._selection))
            return
        for line in text.finding_lines(findings, self._selection):
            _say(line)
        most = self._args.max_traces
        if most is not None and total > most:
            _say(
                f"of these {most:,} at most now (--max-traces), experiment by experiment, the oldest first"
            )
        if total and not self._args.artifacts:
            _say("their files in the artifact store, where they have some, stay (see --artifacts)")

    def _delete(self, findings: Sequence[Finding], total: int | None) -> int:
        experiments = [
            finding.experiment
            for finding in findings
            if finding.error is None and (finding.traces or total is None)
        ]
        deletion = self._deletion()
        progress = _Progress(deletion, total)
        deletion.run(experiments, progress.tell)
        progress.end()
        if self._args.json:
            sys.stdout.write(text.deletion_json(deletion, findings, self._selection))
        else:
            for line in text.account_lines(deletion):
                _say(line)
        return _code(deletion)

    def _deletion(self) -> Deletion:
        args = self._args
        order = Order(
            selection=self._selection,
            page_traces=args.batch_size,
            traces_max=args.max_traces,
            files=args.artifacts,
        )
        pace = DeletionPace(args.batch_size, args.pause)
        return Deletion(
            self._table,
            order,
            pace,
            self._patience,
            now_s=time.monotonic,
            wait=self._stop.wait,
        )


def _experiments(
    table: "MlflowTraces", patience: Patience, args: argparse.Namespace
) -> list[Experiment]:
    """Those that the arguments name. Raises FatalError for one that is not there."""
    named = {
        name: patience.ask(functools.partial(table.experiment, name))
        for name in (*args.of_experiments, *args.but_experiments)
    }
    if not args.all_experiments:
        by_id = {one.experiment_id: one for one in named.values()}
        return list(by_id.values())
    but = {one.experiment_id for one in named.values()}
    return [one for one in patience.ask(table.experiments) if one.experiment_id not in but]


def _code(deletion: Deletion) -> int:
    """Say what went wrong; the exit code."""
    refused = 0
    stopped = False
    for account in deletion.accounts:
        refused += account.refused
        if account.refused:
            _complain(
                f"{_named(account.experiment)}: {account.refused:,} could not be deleted: {account.why}"
            )
        if account.stopped is not None:
            stopped = True
            _complain(f"{_named(account.experiment)}: stopped: {account.stopped}")
    if deletion.stopped:
        _complain("interrupted; what is deleted is gone, the next run goes on from there")
    if stopped and not deletion.deleted:
        return _UNREACHABLE
    return _NOT_ALL if stopped or refused or deletion.stopped else _OK


class _Progress:
    """How far it is, on stderr: one line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self, deletion: Deletion, total: int | None) -> None:
        self._deletion = deletion
        self._of = "" if total is None else f" of {total:,}"
        self._live = sys.stderr.isatty()
        self._next_s = time.monotonic() + (0.0 if self._live else _TELL_LOG_S)
        self._shown = False

    def tell(self, account: Account) -> None:
        """A batch is gone."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + (_TELL_S if self._live else _TELL_LOG_S)
        line = f"{self._deletion.deleted:,}{self._of} deleted, at {_named(account.experiment)}"
        sys.stderr.write(f"\r\x1b[K{line}" if self._live else f"spanferry retention: {line}\n")
        sys.stderr.flush()
        self._shown = True

    def end(self) -> None:
        """Leave the line."""
        if self._live and self._shown:
            sys.stderr.write("\n")


@contextlib.contextmanager
def _opened(settings: Settings) -> "Generator[MlflowTraces]":
    prepare_environment()
    # mlflow takes seconds to import.
    from spanferry_worker.services.mlflow_retention import MlflowTraces  # noqa: PLC0415

    mlflow = settings.mlflow
    table = MlflowTraces(
        mlflow.tracking_uri, artifact_server=mlflow.artifact_server, http=settings.http
    )
    try:
        yield table
    finally:
        table.close()


def _named(experiment: Experiment) -> str:
    return cut(experiment.name, _NAME_WIDTH)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _complain(line: str) -> None:
    sys.stderr.write(f"spanferry retention: {line}\n")
