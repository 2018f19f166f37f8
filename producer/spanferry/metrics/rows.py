"""The table of the app's metrics: which field of `Stats` is which metric. docs/metrics.md is made
from it, and a test names every field that is missing here.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct

__all__ = ["NOT_EXPORTED", "ROWS", "Kind", "Row"]

_DROPPED: Final = ("buffer_full", "oversize", "refused", "broken")
_TROUBLES: Final = (
    "unreachable",
    "silent",
    "protocol",
    "certificate",
    "authentication",
    "authorization",
    "advertised",
    "topic",
    "unacknowledged",
    "lost",
    "replaced",
    "settings",
    "too large",
    "refused",
)
_SUFFIXES: Final = {"By": "_bytes", "s": "_seconds"}
_ALL: Final = "*"


class Kind(StrEnum):
    """What may be done with a number, and what comes of those of several processes."""

    COUNTER = "counter"
    SUM = "sum"
    """A gauge; that of several processes is their sum."""
    HIGHEST = "highest"
    """A gauge; that of several processes is the highest."""


class Row(Struct, frozen=True, kw_only=True):
    """One metric. A value of the label is one field, or, under `*`, one key of a field that maps."""

    name: str
    """Without what the unit and the kind add to it."""
    kind: Kind
    unit: str
    """UCUM, as OpenTelemetry has it: `By`, `s`, or what is counted in braces."""
    text: str
    fields: Mapping[str, str]
    label: str = ""
    known: tuple[str, ...] = ()
    """Values of the label that are there at zero: the first increase counts for `rate()` then."""
    scale: float = 1
    """From the field's unit to `unit`."""

    @property
    def prometheus_name(self) -> str:
        """With Prometheus's suffixes, `_total` too."""
        plain = f"spanferry_app_{self.name}{_SUFFIXES.get(self.unit, '')}"
        return f"{plain}_total" if self.kind is Kind.COUNTER else plain

    @property
    def opentelemetry_name(self) -> str:
        """From which OpenTelemetry's way to Prometheus makes `prometheus_name`."""
        return f"spanferry.app.{self.name}"

    def read(self, stats: Struct) -> dict[str, float]:
        """The numbers by the label's value, which is empty where there is no label."""
        found: dict[str, float] = dict.fromkeys(self.known, 0)
        for value, field in self.fields.items():
            number = getattr(stats, field, None)
            if value == _ALL:
                found.update(number or {})
            elif number is not None:
                found[value] = number * self.scale
        return found


def _counter(name: str, text: str, field: str, unit: str) -> Row:
    return Row(name=name, kind=Kind.COUNTER, unit=unit, text=text, fields={"": field})


def _sum(name: str, text: str, field: str, unit: str) -> Row:
    return Row(name=name, kind=Kind.SUM, unit=unit, text=text, fields={"": field})


def _highest(name: str, text: str, field: str, unit: str) -> Row:
    return Row(name=name, kind=Kind.HIGHEST, unit=unit, text=text, fields={"": field})


NOT_EXPORTED: Final = {"last_error": "a text; the log says it too"}
"""Fields of `Stats` that are no metrics, and why."""

ROWS: Final = (
    _sum("enabled", "Processes in which tracing is on: 1, or 0.", "enabled", "{process}"),
    _sum("connected", "Processes that are connected to Kafka: 1, or 0.", "connected", "{process}"),
    _counter("traces", "Traces whose local root has ended.", "traces", "{trace}"),
    Row(
        name="traces_settled",
        kind=Kind.COUNTER,
        unit="{trace}",
        text="Traces that were acknowledged by Kafka, put into the spool, or dropped.",
        label="outcome",
        fields={"sent": "traces_sent", "spooled": "traces_spooled", "dropped": "traces_dropped"},
    ),
    Row(
        name="traces_dropped",
        kind=Kind.COUNTER,
        unit="{trace}",
        text="Whole traces dropped; `stats()` calls it `traces_dropped_by_reason`.",
        label="reason",
        fields={_ALL: "traces_dropped_by_reason"},
        known=_DROPPED,
    ),
    _sum(
        "buffered_traces",
        "Traces that wait in memory or are in flight.",
        "traces_buffered",
        "{trace}",
    ),
    _counter(
        "parcels",
        "Parcels handed over; most traces are one, a long one several.",
        "parcels",
        "{parcel}",
    ),
    Row(
        name="parcels_settled",
        kind=Kind.COUNTER,
        unit="{parcel}",
        text="Parcels that were acknowledged by Kafka, put into the spool, or dropped.",
        label="outcome",
        fields={"sent": "parcels_sent", "spooled": "parcels_spooled", "dropped": "parcels_dropped"},
    ),
    Row(
        name="parcels_dropped",
        kind=Kind.COUNTER,
        unit="{parcel}",
        text="Parcels dropped; `stats()` calls it `dropped`.",
        label="reason",
        fields={_ALL: "dropped"},
        known=_DROPPED,
    ),
    _sum("buffered", "Bytes that wait in memory or are in flight.", "buffered_bytes", "By"),
    _sum(
        "buffer_limit", "The limit of these bytes: the option `buffer_bytes`.", "buffer_bytes", "By"
    ),
    _counter("sent_records", "Records acknowledged by Kafka.", "records_sent", "{record}"),
    _counter(
        "sent",
        "Bytes of the records acknowledged by Kafka, before compression.",
        "bytes_sent",
        "By",
    ),
    Row(
        name="batches",
        kind=Kind.COUNTER,
        unit="{batch}",
        text="Batches acknowledged by Kafka, and attempts that failed.",
        label="outcome",
        fields={"sent": "batches_sent", "failed": "batches_failed"},
    ),
    _counter("connects", "Connections to Kafka made.", "connects", "{connection}"),
    Row(
        name="troubles",
        kind=Kind.COUNTER,
        unit="{connection}",
        text="Connections to Kafka that could not be made or did not last.",
        label="reason",
        fields={_ALL: "troubles"},
        known=_TROUBLES,
    ),
    _counter(
        "values_redacted",
        "Values in which redaction replaced something.",
        "values_redacted",
        "{value}",
    ),
    _counter(
        "values_withheld",
        "Values whose redaction failed: they were not sent.",
        "values_withheld",
        "{value}",
    ),
    _counter(
        "payloads_truncated",
        "Payloads cut to previews.",
        "payloads_truncated",
        "{payload}",
    ),
    _counter(
        "traces_shortened",
        "Traces of which the budget guard has had less recorded.",
        "traces_shortened",
        "{trace}",
    ),
    _counter(
        "overhead_watched",
        "Traces of which the cost was measured; the newest 1,000 are in the quantiles.",
        "overhead_watched",
        "{trace}",
    ),
    Row(
        name="overhead",
        kind=Kind.HIGHEST,
        unit="s",
        text="Seconds that a trace has cost the app's threads.",
        label="quantile",
        fields={"0.5": "overhead_p50_ms", "0.99": "overhead_p99_ms"},
        scale=0.001,
    ),
    Row(
        name="overhead_per_10kb",
        kind=Kind.HIGHEST,
        unit="s",
        text="Seconds that a trace has cost the app's threads for each 10 KB.",
        label="quantile",
        fields={"0.99": "overhead_p99_ms_per_10kb"},
        scale=0.001,
    ),
    _highest(
        "budget_level",
        "How far the budget guard cuts payloads; 0: not at all.",
        "budget_level",
        "{level}",
    ),
    _highest(
        "spool_used",
        "Bytes that the spool's folder holds, all processes' together.",
        "spool_bytes_used",
        "By",
    ),
    _highest(
        "spool_limit",
        "The limit of these bytes: the option `spool_bytes`; 0 without a spool.",
        "spool_bytes",
        "By",
    ),
    _counter("spool_put", "Bytes moved from memory to the spool.", "spool_bytes_put", "By"),
    _counter(
        "spool_replayed_parcels",
        "Parcels sent from the spool, those that other processes left included.",
        "spool_parcels_replayed",
        "{parcel}",
    ),
    _counter("spool_replayed", "Bytes sent from the spool.", "spool_bytes_replayed", "By"),
    _counter(
        "spool_refused",
        "Times that the spool or its disk took nothing.",
        "spool_refused",
        "{refusal}",
    ),
    _counter(
        "spool_corrupt",
        "Bytes that could not be read back from the spool.",
        "spool_corrupt_bytes",
        "By",
    ),
)
