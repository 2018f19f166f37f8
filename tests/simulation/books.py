"""The ledger at the end of a run, read as `spanferry ledger` reads it."""

from collections.abc import Iterator, Mapping

from spanferry_worker.stages.statement import Statement
from tests.simulation.plan import Plan, is_orderly
from tests.simulation.scene import Scene
from tests.worker.statements import statement_of

__all__ = ["differences", "is_told", "is_undisturbed", "statement"]


def is_undisturbed(plan: Plan) -> bool:
    """Whether the ledger was there whenever a worker wanted it."""
    away = any(one.kind == "broker_away" for one in plan.incidents)
    return is_orderly(plan) and not plan.failing and not away


def is_told(plan: Plan) -> bool:
    """Whether what could not be written at once is written later: its worker lives on."""
    moved = plan.incidents or plan.deaths
    return is_undisturbed(plan) or (is_orderly(plan) and not moved)


def statement(scene: Scene) -> Statement:
    """What `spanferry ledger` would say now."""
    return statement_of(scene.broker, scene.ledger, scene.plan.settings.kafka.group)


def differences(told: Statement, produced: Mapping[bytes, int]) -> Iterator[str]:
    """Apps that have given more numbers to their records than the ledger knows, or fewer."""
    rows = {row.producer_id: row for row in told.rows}
    for producer_id, numbers in produced.items():
        row = rows.get(producer_id)
        if row is None or row.produced != numbers:
            yield f"{numbers} records of {producer_id.hex()}, in the ledger: {row}"
