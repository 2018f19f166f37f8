"""What a run has shown: kept as JSON, printed as tables, judged."""

from collections.abc import Iterator

from msgspec import Struct

from benchmarks.machine import Conditions, in_words
from tests.chaos.account import Account, KafkaCount, LedgerTotals
from tests.chaos.faults import Kind, Plan

__all__ = ["Happened", "Report", "lines", "table"]


class Happened(Struct, kw_only=True):
    """A fault, as it was."""

    number: int
    kind: Kind
    what: str
    at_s: float
    """After the first trace."""
    hold_s: float
    """For so long it lasted."""
    healed_s: float
    """From its beginning until all was well again."""


class Report(Struct, kw_only=True):
    """What the results' file holds."""

    conditions: Conditions
    plan: Plan
    partitions: int
    """In the end."""
    load_s: float
    """From the first trace to the last."""
    settled_s: float
    """From there until nothing was in flight."""
    faults: list[Happened]
    account: Account
    letters: dict[str, int]
    """Records that have a dead letter, by reason. Who dies between letter and commit leaves it twice."""
    ledger: LedgerTotals
    kafka: KafkaCount
    producers: dict[str, int]
    """What those of the producers that ended in order have counted, added up."""

    @property
    def failures(self) -> list[str]:
        """What must not be; nothing where all is accounted for."""
        account, ledger = self.account, self.ledger
        dead, in_kafka = sum(self.letters.values()), self.kafka.records + self.kafka.junk
        checks = {
            f"{account.lost} promised traces are lost": account.lost,
            f"{account.doubled} are doubled": account.doubled,
            f"{account.unknown} were made by nobody": account.unknown,
            f"{account.kept} are there that the rule drops": account.kept,
            f"{account.promised} promised, {account.stored} stored, {account.sampled} sampled": (
                account.promised != account.stored + account.sampled
            ),
            "the ledger does not add up": not ledger.adds_up,
            f"the ledger misses {ledger.missing}": ledger.missing,
            f"the ledger has {ledger.in_flight} in flight": ledger.in_flight,
            f"the ledger has {ledger.sampled} sampled, Kafka {self.kafka.sampled} for the rule": (
                ledger.sampled != self.kafka.sampled
            ),
            f"the ledger knows nothing of {ledger.unaccounted}": ledger.unaccounted,
            f"the ledger has {ledger.dead_lettered} dead, the letters' topic {dead}, "
            f"Kafka {self.kafka.junk} that nobody can read": not (
                ledger.dead_lettered == dead == self.kafka.junk
            ),
            f"the ledger has {ledger.dropped} dropped, the apps {account.dropped_parcels}": (
                ledger.dropped != account.dropped_parcels
            ),
            f"the ledger has {ledger.produced - ledger.dropped} records, Kafka {in_kafka}": (
                ledger.produced - ledger.dropped != in_kafka
            ),
            f"{len(self.faults)} of {self.plan.faults} faults": len(self.faults) < self.plan.faults,
            **self._missing_outcomes(),
        }
        return [text for text, wrong in checks.items() if wrong]

    def _missing_outcomes(self) -> dict[str, bool]:
        """What the plan wants to happen, and whether it has not."""
        if not self.plan.all_outcomes:
            return {}
        account, junk = self.account, self.kafka.junk
        return {
            "nothing was sampled": not account.sampled,
            f"{account.sampled} sampled, {self.kafka.sampled} records of theirs in Kafka": (
                self.kafka.sampled < account.sampled
            ),
            f"{junk} of {self.plan.junk} junk records are in Kafka": junk < self.plan.junk,
            "no buffer was full": not self.producers.get("dropped_full"),
        }


def table(faults: list[Happened]) -> Iterator[str]:
    """A line for each fault."""
    yield f"{'#':>3}  {'AT':>6}  {'LASTED':>7}  {'HEALED':>7}  {'FAULT':<28}  WHAT"
    for one in faults:
        yield (
            f"{one.number:>3}  {one.at_s:>5.0f}s  {one.hold_s:>6.1f}s  {one.healed_s:>6.1f}s  "
            f"{one.kind.value:<28}  {one.what}"
        )


def lines(report: Report) -> Iterator[str]:
    """The whole of it for people."""
    account, ledger, kafka = report.account, report.ledger, report.kafka
    yield from table(report.faults)
    yield ""
    yield f"load {report.load_s:.0f} s, settled {report.settled_s:.0f} s later"
    yield (
        f"made {account.made:,} traces; promised (in Kafka or on disk before their producer ended, "
        f"however) {account.promised:,}"
    )
    yield (
        f"stored whole, once, through MLflow's API: {account.stored:,} with {account.spans:,} spans, "
        f"{account.payload_bytes / 1e6:,.0f} MB of payload and {account.judgements:,} judgements"
    )
    yield f"lost {account.lost:,}, doubled {account.doubled:,}, made by nobody {account.unknown:,}"
    yield from (f"  {text}" for text in account.wrong)
    yield (
        f"not promised, because kill -9 came first: {account.unpromised:,}, of which "
        f"{account.unpromised_stored:,} are there all the same, {account.unpromised_partly:,} in part; "
        f"dropped by full buffers: {account.dropped:,}; sampled, and not there: {account.sampled:,}"
    )
    yield (
        f"ledger: produced {ledger.produced:,} = stored {ledger.stored:,} + sampled {ledger.sampled:,} "
        f"+ dead {ledger.dead_lettered:,} + in flight {ledger.in_flight:,} + dropped {ledger.dropped:,}"
        f" + settled {ledger.settled:,} + unaccounted {ledger.unaccounted:,}; missing "
        f"{ledger.missing:,}; {'adds up' if ledger.adds_up else 'DOES NOT ADD UP'}"
    )
    yield (
        f"Kafka: {kafka.records:,} records with a number in {report.partitions} partitions, "
        f"{kafka.repeated:,} of them more than once, {kafka.junk:,} that nobody can read; dead letters: "
        f"{report.letters or 'none'}"
    )
    yield f"producers that ended in order: {report.producers}"
    yield in_words(report.conditions)
    yield "" if report.failures else "every trace is accounted for"
    yield from (f"FAILED: {text}" for text in report.failures)
