"""The app side's account, as `stats()` gives it."""

from typing import TYPE_CHECKING

from msgspec import Struct

from spanferry.buffer import BufferCounts
from spanferry.parcel import DropReason

if TYPE_CHECKING:
    from spanferry.staging import DropCounts

__all__ = ["Stats", "parcels_dropped", "traces_dropped"]


def parcels_dropped(put: BufferCounts, drops: "DropCounts") -> dict[str, int]:
    """Parcels dropped by the buffer, and after they were taken from it, by reason."""
    return {
        **drops.parcels,
        DropReason.FULL.value: put.dropped_full + drops.parcels[DropReason.FULL.value],
        DropReason.OVERSIZE.value: put.dropped_oversize + drops.parcels[DropReason.OVERSIZE.value],
        DropReason.BROKEN.value: put.dropped_broken + drops.parcels[DropReason.BROKEN.value],
    }


def traces_dropped(put: BufferCounts, drops: "DropCounts") -> dict[str, int]:
    """Traces dropped there and there, by what the first of their parcels was dropped for."""
    return {reason: count + put.traces_dropped[reason] for reason, count in drops.traces.items()}


class Stats(Struct, frozen=True, kw_only=True):
    """The app side's account since `enable()`, or since the fork in a forked process.

    A parcel is what one trace hands over at once (a long trace hands over several); a trace is
    counted when its local root has ended.
    traces == traces_sent + traces_spooled + traces_dropped + traces_buffered.
    """

    enabled: bool = False
    connected: bool = False
    """Whether a Kafka producer is connected at this moment."""
    traces: int = 0
    traces_sent: int = 0
    """Acknowledged by Kafka."""
    traces_spooled: int = 0
    """Put into the spool, from which they are sent later; by another process where this one ends."""
    traces_dropped: int = 0
    """The sum of ..."""
    traces_dropped_by_reason: dict[str, int] = {}
    """... whole traces by what the first of their parcels was dropped for: buffer_full, oversize,
    refused, broken."""
    traces_buffered: int = 0
    """Waiting or in flight."""
    parcels: int = 0
    parcels_sent: int = 0
    parcels_spooled: int = 0
    parcels_dropped: int = 0
    dropped: dict[str, int] = {}
    """Parcels dropped, by reason: buffer_full, oversize, refused, broken."""
    values_redacted: int = 0
    """Inputs, outputs, attributes, events, texts of which something was replaced."""
    values_withheld: int = 0
    """Values whose redaction failed: they were not sent."""
    payloads_truncated: int = 0
    """Payloads that were cut to a preview."""
    traces_shortened: int = 0
    """Traces of which the budget guard has had less recorded."""
    budget_level: int = 0
    """0: all is recorded as configured; up to 4: ever less of the values that are slow to record."""
    overhead_watched: int = 0
    """Traces of which the cost was measured: one of 128, where values are recorded on a slow way one of
    16, ten a second at most. The newest 1,000 are in ..."""
    overhead_p50_ms: float | None = None
    overhead_p99_ms: float | None = None
    """... what recording a trace has cost the app's threads, ..."""
    overhead_p99_ms_per_10kb: float | None = None
    """... and the same for 10,000 bytes of its values, or what it has less."""
    buffered_bytes: int = 0
    buffer_bytes: int = 0
    """The limit of `buffered_bytes`."""
    records_sent: int = 0
    bytes_sent: int = 0
    """Before compression."""
    batches_sent: int = 0
    batches_failed: int = 0
    connects: int = 0
    troubles: dict[str, int] = {}
    """Connections that could not be made or did not last, by reason: unreachable, silent, protocol,
    certificate, authentication, authorization, advertised, topic, unacknowledged, lost, replaced,
    settings, too large, refused."""
    spool_bytes_used: int = 0
    """What its folder holds, all processes' together, and what is reserved for segments that are being
    written; looked at every 5 seconds."""
    spool_bytes: int = 0
    """The limit of `spool_bytes_used`; 0 without a spool."""
    spool_bytes_put: int = 0
    """Moved from memory to the spool."""
    spool_parcels_replayed: int = 0
    spool_bytes_replayed: int = 0
    """Moved from the spool to Kafka, what other processes have left included."""
    spool_refused: int = 0
    """Times that the spool was full, or its disk."""
    spool_corrupt_bytes: int = 0
    """Could not be read back."""
    last_error: str | None = None
    """What was wrong last, and what to do about it."""
