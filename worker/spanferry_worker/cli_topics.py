"""`spanferry topics create`."""

import argparse
import asyncio
import os
import sys
from typing import Final

from spanferry_worker.arguments import add_settings_arguments, operator_settings
from spanferry_worker.errors import FatalError, SettingsError, TransientError
from spanferry_worker.services.kafka_admin import (
    MESSAGE_BYTES_MIN,
    TopicPlan,
    TopicState,
    create_topic,
    describe_topic,
    problems,
)
from spanferry_worker.services.kafka_client import reach_border
from spanferry_worker.settings import KafkaSettings

__all__ = ["add_arguments", "run"]

_DAY_MS: Final = 24 * 3600 * 1000
_HEADROOM_BYTES: Final = 65_536


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See cli."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    create = verbs.add_parser(
        "create",
        help="create the topics, or check those that exist",
        description="Creates the traces' topic, those for dead letters, the ledger and sampling, and where a "
        "rule of the policy can drop traces that for dropped ones. "
        "What exists already is checked and left as it is; the exit code is 1 where it will not do.",
    )
    create.add_argument("--partitions", type=int, default=12, help="of the traces' topic")
    create.add_argument(
        "--replication-factor", type=int, default=-1, help="-1: the broker's default"
    )
    create.add_argument(
        "--retention-ms", type=int, default=3 * _DAY_MS, help="of the traces' topic"
    )
    create.add_argument(
        "--max-message-bytes", type=int, default=1_048_588, help="largest batch of records"
    )
    add_settings_arguments(create)


def run(args: argparse.Namespace) -> int:
    """Create and check; 0 where all topics will do."""
    settings = operator_settings(args, os.environ)
    if args.partitions < 1 or args.max_message_bytes < MESSAGE_BYTES_MIN:
        raise SettingsError(
            f"--partitions must be at least 1 and --max-message-bytes at least {MESSAGE_BYTES_MIN}"
        )
    traces = TopicPlan(
        name=settings.kafka.topic,
        partitions=args.partitions,
        replication_factor=args.replication_factor,
        message_bytes_max=args.max_message_bytes,
        retention_ms=args.retention_ms,
    )
    dead = TopicPlan(
        name=settings.dead_letter_topic,
        partitions=1,
        replication_factor=args.replication_factor,
        message_bytes_max=args.max_message_bytes + _HEADROOM_BYTES,
    )
    ledger = TopicPlan.for_ledger(settings.ledger_topic, args.replication_factor)
    fleet = TopicPlan.for_fleet(settings.fleet_topic, args.replication_factor, args.retention_ms)
    plans = [traces, dead, ledger, fleet]
    if settings.sample.can_drop:
        plans.append(TopicPlan.for_dropped(settings.dropped_topic, traces))
    try:
        return asyncio.run(_create(settings.kafka, plans))
    except TransientError as error:
        sys.stderr.write(f"spanferry topics: {error}\n")
        return 1


async def _create(settings: KafkaSettings, plans: list[TopicPlan]) -> int:
    code = 0
    for plan in plans:
        with reach_border(settings):
            state = await describe_topic(settings, plan.name)
            if state is None:
                refusal = await create_topic(settings, plan)
                if refusal is not None:
                    raise FatalError(f"{plan.name} cannot be created: {refusal}")
                sys.stdout.write(f"{plan.name}: created\n")
                continue
        wrong = problems(plan, state)
        code = 1 if wrong else code
        sys.stdout.write(_report(state, wrong))
    return code


def _report(state: TopicState, wrong: list[str]) -> str:
    size = state.message_bytes_max
    text = "unknown" if size is None else f"{size} bytes"
    about = f"{state.partitions} partitions, records up to {text}"
    verdict = "" if wrong else ", good"
    return f"{state.name}: exists, {about}{verdict}\n" + "".join(f"  {line}\n" for line in wrong)
