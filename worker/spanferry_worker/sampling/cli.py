"""`spanferry sampling explain | simulate | check`."""

import argparse
import asyncio
import contextlib
import io
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from rich.console import Console

from spanferry_worker.arguments import operator_settings, settings_from
from spanferry_worker.errors import FatalError, SettingsError, TransientError
from spanferry_worker.sampling import explain_text
from spanferry_worker.sampling.arguments import add_sampling_arguments
from spanferry_worker.sampling.explaining import Explanation, explain
from spanferry_worker.sampling.finding import (
    AmbiguousError,
    Found,
    NotThereError,
    find,
    find_table,
)
from spanferry_worker.sampling.gathering import Gatherer
from spanferry_worker.sampling.sentences import policy_sentences
from spanferry_worker.sampling.simulation import Simulation
from spanferry_worker.sampling.simulation_text import as_json, shown
from spanferry_worker.services.clock import SystemClock
from spanferry_worker.services.kafka_scan import Times, open_scan, partition_count
from spanferry_worker.settings import SampleSettings, Settings, load_policy
from spanferry_worker.stages.sample import (
    LIVE,
    SHADOW,
    Sampler,
    SamplingPolicy,
    Table,
    Traits,
    bucket_of,
)

__all__ = ["add_arguments", "run"]

_OK: Final = 0
_NOTHING: Final = 1
_UNREACHABLE: Final = 3
_CURRENT: Final = "current"
_WIDTH_MIN: Final = 110

add_arguments = add_sampling_arguments


def run(args: argparse.Namespace) -> int:
    """One verb: 0 done, 1 nothing there, 2 wrong usage; 3 where Kafka cannot be reached or refuses.

    The rest of those raise FatalError.
    """
    if args.verb == "check":
        return _check(args)
    settings = operator_settings(args, os.environ)
    verb = _explain if args.verb == "explain" else _simulate
    try:
        return verb(settings, args)
    except (NotThereError, AmbiguousError) as error:
        _complain(args, str(error))
        return _NOTHING
    except TransientError as error:
        _complain(args, str(error))
        return _UNREACHABLE
    except KeyboardInterrupt:
        _complain(args, "interrupted")
        return _NOTHING


def _check(args: argparse.Namespace) -> int:
    policy = load_policy(args.policy)
    settings = settings_from(args, os.environ)
    _say([f"{args.policy}: good", *policy_sentences(policy)])
    if policy.shadow is not None:
        _say(["shadow, without effect but on metrics:", *policy_sentences(policy.shadow)])
    topic = policy.fleet_topic or f"{settings.kafka.topic}.sampling"
    needing = [
        name
        for name, one in ((LIVE, policy), (SHADOW, policy.shadow))
        if one is not None and one.needs_fleet
    ]
    if needing:
        _say([f"needs the topic {topic}, where workers agree on {_why(policy)}"])
    else:
        _say(["needs no topic of its own: each trace is decided on by itself"])
    return _OK


def _why(policy: SampleSettings) -> str:
    rules = [*policy.in_force, *(policy.shadow.in_force if policy.shadow is not None else ())]
    budget = any(rule.action.value == "budget" for rule in rules)
    slow = any(rule.slow is not None for rule in rules)
    return " and ".join(
        text for given, text in ((budget, "the budget's target"), (slow, "what is slow")) if given
    )


def _explain(settings: Settings, args: argparse.Namespace) -> int:
    policy = settings.sample if args.policy is None else load_policy(args.policy)
    found, table = asyncio.run(_look(settings, args, policy))
    label = "in force, by the settings" if args.policy is None else str(args.policy)
    explanations = [_explained(found, policy, LIVE, label, table)]
    if policy.shadow is not None:
        label = "shadow, without effect"
        explanations.append(_explained(found, policy.shadow, SHADOW, label, table))
    if args.json:
        sys.stdout.write(explain_text.as_json(found, explanations))
        return _OK
    _say(explain_text.found_lines(found))
    for one in explanations:
        _say(explain_text.explanation_lines(one))
    return _OK


async def _look(
    settings: Settings, args: argparse.Namespace, policy: SampleSettings
) -> tuple[Found, Table | None]:
    """The trace, and its bucket's table where a policy needs one and the fleet has one."""
    found = await find(
        settings, args.trace, SystemClock(), since_ms=args.since, everywhere=args.everywhere
    )
    table: Table | None = None
    if policy.needs_fleet or (policy.shadow is not None and policy.shadow.needs_fleet):
        bucket = bucket_of(Traits(found.pieces[0]).moment_ms)
        table = await find_table(settings, bucket)
    return found, table


def _explained(
    found: Found, policy: SamplingPolicy, name: str, label: str, table: Table | None
) -> Explanation:
    known = table if policy.needs_fleet else Table()
    return explain(found.pieces[0], Sampler(policy, name), label, known)


def _simulate(settings: Settings, args: argparse.Namespace) -> int:
    policies = _policies(settings, args.policies)
    gatherer = Gatherer(settings)
    account = asyncio.run(_simulated(settings, args, policies, gatherer)).account
    width = max(_WIDTH_MIN, shutil.get_terminal_size().columns)
    if args.json:
        sys.stdout.write(as_json(account, gatherer))
    else:
        shown(Console(width=width), account, gatherer)
    if args.svg is not None or args.html is not None:
        console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
        shown(console, account, gatherer)
        _export(console, args)
    return _OK if account.traces else _NOTHING


def _export(console: Console, args: argparse.Namespace) -> None:
    try:
        if args.svg is not None:
            console.save_svg(str(args.svg), title="spanferry sampling simulate", clear=False)
        if args.html is not None:
            console.save_html(str(args.html), clear=False)
    except OSError as error:
        raise FatalError(f"cannot write {error.filename}: {error.strerror}") from error


def _policies(settings: Settings, names: Iterable[str]) -> dict[str, SamplingPolicy]:
    """By file name, or by path where two files have the same."""
    found: dict[str, SamplingPolicy] = {}
    for name in names:
        if name == _CURRENT:
            found[_CURRENT] = settings.sample
            continue
        path = Path(name)
        label = path.stem if path.stem not in found and path.stem != _CURRENT else name
        if label in found:
            raise SettingsError(f"{name} is given twice")
        found[label] = load_policy(path)
    return found


async def _simulated(
    settings: Settings,
    args: argparse.Namespace,
    policies: Mapping[str, SamplingPolicy],
    gatherer: Gatherer,
) -> Simulation:
    topic = settings.kafka.topic
    count = await partition_count(settings, topic)
    if count is None:
        raise NotThereError(f"the topic {topic} does not exist, or this user may not see it")
    simulation: Simulation | None = None
    times = Times(args.since, args.until)
    async with (
        open_scan(settings, topic, count, times, merging=True) as scan,
        contextlib.aclosing(scan.merged()) as records,
    ):
        async for record in records:
            if simulation is None:
                simulation = Simulation(policies, begin_ms=record.timestamp)
            simulation.take(gatherer.take(record))
            if args.traces_max is not None and simulation.account.traces >= args.traces_max:
                break
    if simulation is None:
        simulation = Simulation(policies)
    simulation.left(gatherer.drain())
    return simulation


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")


def _complain(args: argparse.Namespace, text: str) -> None:
    sys.stderr.write(f"spanferry {args.command} {args.verb}: {text}\n")
