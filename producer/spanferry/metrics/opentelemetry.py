"""The account as OpenTelemetry's observable instruments."""

from collections.abc import Callable, Iterable
from typing import TypeAlias
from weakref import WeakSet

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider

from spanferry import client
from spanferry.log import logger, say_once
from spanferry.metrics import totals
from spanferry.metrics.rows import ROWS, Kind, Row
from spanferry.process import PROCESS

__all__ = ["register"]

Callback: TypeAlias = Callable[[CallbackOptions], Iterable[Observation]]

_registered: WeakSet[MeterProvider] = WeakSet()


def register(meter_provider: MeterProvider | None) -> None:
    """See `spanferry.metrics.register_opentelemetry`."""
    provider = get_meter_provider() if meter_provider is None else meter_provider
    if provider in _registered:
        return
    _registered.add(provider)
    meter = provider.get_meter("spanferry")
    make = {
        Kind.COUNTER: meter.create_observable_counter,
        Kind.SUM: meter.create_observable_up_down_counter,
        Kind.HIGHEST: meter.create_observable_gauge,
    }
    for row in ROWS:
        make[row.kind](
            row.opentelemetry_name,
            callbacks=[_Instrument(row).observe],
            unit=row.unit,
            description=row.text,
        )


class _Instrument:
    """What one instrument has observed, so that a counter never goes backwards.

    A forked process has the parent's readers, which may report differences: there it counts on from
    what was observed last.
    """

    def __init__(self, row: Row) -> None:
        self._row = row
        self._forks = PROCESS.forks
        self._base: dict[str, float] = {}
        self._last: dict[str, float] = {}

    def observe(self, _: CallbackOptions) -> Iterable[Observation]:
        """The numbers now; none where that fails."""
        row = self._row
        try:
            numbers = totals.look(client.stats()).read(row)
            if row.kind is Kind.COUNTER:
                numbers = self._onwards(numbers)
        except Exception as error:  # noqa: BLE001  the app's own metrics are collected too
            say_once("metrics-observe", "the metrics could not be read: %r", error)
            logger.debug("the metrics could not be read", exc_info=True)
            return []
        return [
            Observation(number, {row.label: value} if row.label else None)
            for value, number in numbers.items()
        ]

    def _onwards(self, numbers: dict[str, float]) -> dict[str, float]:
        forked = self._forks != PROCESS.forks
        self._forks = PROCESS.forks
        for value, last in self._last.items():
            if forked or numbers.get(value, 0) < last:
                self._base[value] = self._base.get(value, 0) + last
        self._last = numbers
        return {value: self._base.get(value, 0) + number for value, number in numbers.items()}
