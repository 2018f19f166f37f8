"""One picture of an account, for rich. Colours help; nothing is said by a colour alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from spanferry_worker.top.account import Account, Process, Total
from spanferry_worker.top.text import (
    bytes_text,
    count_text,
    rate_text,
    seconds_text,
    sparkline,
)

__all__ = ["picture"]

_LABEL_WIDTH: Final = 13
_VALUE_WIDTH: Final = 28
_CURVE_MIN: Final = 10
_STATE_WIDTH: Final = 9
_GAP: Final = 2
_STATES: Final = {
    "ready": "green",
    "paused": "yellow",
    "waiting": "yellow",
    "no answer": "bold red",
}
_OUTCOMES: Final = ("full", "skeleton", "drop")


class _Column(NamedTuple):
    """A column of the processes' table; the highest `rank` goes first where the terminal is narrow."""

    title: str
    width: int
    rank: int
    value: Callable[[Process], str]


def picture(
    account: Account, *, title: str, note: str, console: Console, whole: bool = False
) -> RenderableType:
    """Fits the console's width and, by leaving out processes unless it shall be whole, its height."""
    plain = console.options.ascii_only
    width, height = console.size
    head = Text(title, style="bold", no_wrap=True, overflow="crop")
    if len(title) + len(note) + _GAP <= width:
        head.append(" " * (width - len(title) - len(note)) + note, style="dim")
    lines = [head, Text(""), *_totals(account, width, plain=plain), *_errors(account)]
    rows = len(account.processes) if whole else max(1, height - len(lines) - 3)
    return Group(*lines, Text(""), _processes(account.processes, width, rows))


def _totals(account: Account, width: int, *, plain: bool) -> list[Text]:
    total = account.total()
    gauges = total.gauges

    def line(label: str, value: str, charted: str = "", style: str = "cyan") -> Text:
        text = Text(no_wrap=True, overflow="crop")
        text.append(label.ljust(_LABEL_WIDTH), style="dim")
        text.append(value.ljust(_VALUE_WIDTH), style="bold")
        room = width - _LABEL_WIDTH - _VALUE_WIDTH - 1
        if charted and room >= _CURVE_MIN:
            curve = sparkline(list(account.history[charted]), room, plain=plain)
            text.append(curve.rjust(room), style=style)
        return text

    limit = gauges.get("held_limit_bytes", 0)
    held = bytes_text(gauges.get("held_bytes", 0)) + (f" of {bytes_text(limit)}" if limit else "")
    return [
        line("records/s", rate_text(total.rates.get("records")), "records"),
        line("read/s", _per_s(total.rates.get("bytes")), "bytes"),
        line("traces/s", rate_text(total.rates.get("traces")), "traces"),
        line("stored/s", rate_text(total.rates.get("stored")), "stored", "green"),
        line("lag", _lag(total), "lag_records", "yellow"),
        line("open traces", _open(total), "open_traces", "blue"),
        line("held", held, "held_bytes", "blue"),
        line("memory", bytes_text(gauges.get("memory_bytes", 0))),
        _sampling(account, total),
    ]


def _per_s(value: float | None) -> str:
    return "-" if value is None else bytes_text(value)


def _lag(total: Total) -> str:
    gauges = total.gauges
    records = gauges.get("lag_records", 0)
    if not records:
        return "0 records"
    behind, size = seconds_text(gauges.get("lag_s", 0)), bytes_text(gauges.get("lag_bytes", 0))
    return f"{count_text(records)}, {size}, {behind}"


def _open(total: Total) -> str:
    oldest_s = total.gauges.get("oldest_s", 0)
    text = count_text(total.gauges.get("open_traces", 0))
    return f"{text}, oldest record {seconds_text(oldest_s)}" if oldest_s else text


def _sampling(account: Account, total: Total) -> Text:
    """Of the last minute; where nothing was decided in it, since the processes began."""
    recent = _labelled(account.recent(), "outcome")
    known = recent if sum(recent.values()) else _labelled(total.counters, "outcome")
    text = Text(no_wrap=True, overflow="crop")
    text.append("sampling".ljust(_LABEL_WIDTH), style="dim")
    decided = sum(known.values())
    if not decided:
        return text.append("nothing decided yet", style="bold")
    names = [*_OUTCOMES, *sorted(known.keys() - set(_OUTCOMES))]
    shares = [f"{name} {known[name] / decided:.1%}" for name in names if known.get(name)]
    return text.append("   ".join(shares), style="bold")


def _errors(account: Account) -> list[Text]:
    """Since the processes began; `now` where it is of the last minute."""
    counters, recent = account.total().counters, account.recent()
    reasons = _labelled(counters, "dead")
    said = ", ".join(f"{name} {count_text(n)}" for name, n in sorted(reasons.items()) if n)
    dead = {"dead": sum(reasons.values())}
    now = {"dead": sum(_labelled(recent, "dead").values())}
    found: list[tuple[str, str]] = []
    for key, label in (
        ("dead", f"dead letters ({said})"),
        ("store_retries", "store retries"),
        ("kafka_errors", "Kafka errors"),
        ("stalls", "stalls"),
        ("missing", "records missing"),
    ):
        count = dead.get(key, counters.get(key, 0))
        if count:
            young = now.get(key, recent.get(key, 0)) > 0
            found.append((f"{label} {count_text(count)}", "bold red" if young else "yellow"))
            if young:
                found[-1] = (f"{found[-1][0]} now", found[-1][1])
    text = Text()
    text.append("errors".ljust(_LABEL_WIDTH), style="dim")
    if not found:
        text.append("none", style="green")
    for index, (part, style) in enumerate(found):
        text.append(" · " if index else "").append(part, style=style)
    lines = [text]
    for process in account.processes:
        if process.problem:
            style = "red" if process.counts is None else "yellow"
            line = Text(no_wrap=True, overflow="ellipsis")
            lines.append(line.append(f"{process.name}: {process.problem}", style=style))
    return lines


def _labelled(counters: Mapping[str, float], name: str) -> dict[str, float]:
    start = f"{name}:"
    return {key[len(start) :]: n for key, n in counters.items() if key.startswith(start)}


def _gauge(name: str, show: Callable[[float], str] = count_text) -> Callable[[Process], str]:
    return lambda one: "" if one.counts is None else show(one.counts.gauges.get(name, 0))


def _rate(name: str, show: Callable[[float | None], str] = rate_text) -> Callable[[Process], str]:
    return lambda one: "" if one.counts is None else show(one.rates.get(name))


def _cpu(one: Process) -> str:
    share = one.rates.get("cpu_s")
    return "" if one.counts is None else "-" if share is None else f"{share:.0%}"


def _dead(one: Process) -> str:
    return "" if one.counts is None else count_text(sum(one.counts.of("dead").values()))


def _again(one: Process) -> str:
    return str(one.restarts) if one.restarts else ""


_COLUMNS: Final = (
    _Column("RECORDS/S", 9, 2, _rate("records")),
    _Column("READ/S", 9, 6, _rate("bytes", _per_s)),
    _Column("TRACES/S", 8, 5, _rate("traces")),
    _Column("STORED/S", 8, 1, _rate("stored")),
    _Column("LAG", 7, 3, _gauge("lag_records")),
    _Column("LAG TIME", 8, 7, _gauge("lag_s", seconds_text)),
    _Column("OPEN", 7, 8, _gauge("open_traces")),
    _Column("HELD", 9, 9, _gauge("held_bytes", bytes_text)),
    _Column("MEMORY", 9, 4, _gauge("memory_bytes", bytes_text)),
    _Column("CPU", 5, 10, _cpu),
    _Column("DEAD", 6, 11, _dead),
    _Column("AGAIN", 5, 12, _again),
)


def _processes(processes: Sequence[Process], width: int, rows: int) -> Table:
    """A line each; of columns as many as fit, of processes too."""
    shown = processes if len(processes) <= rows else processes[: max(1, rows - 1)]
    more = f"... and {len(processes) - len(shown)} more" if len(shown) < len(processes) else ""
    name_width = max([7, len(more), *(len(process.name) for process in shown)])
    narrowest = min(_COLUMNS, key=lambda one: one.rank).width
    name_width = min(name_width, max(8, width - _STATE_WIDTH - narrowest - 3 * _GAP))
    columns = _fitting(width - name_width - _STATE_WIDTH - 2 * _GAP)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    table.add_column("PROCESS", width=name_width, no_wrap=True, overflow="ellipsis")
    table.add_column("STATE", width=_STATE_WIDTH, no_wrap=True)
    for column in columns:
        table.add_column(column.title, width=column.width, justify="right", no_wrap=True)
    for process in shown:
        state = Text(process.state, style=_STATES[process.state])
        table.add_row(process.name, state, *(column.value(process) for column in columns))
    if more:
        table.add_row(more, "")
    return table


def _fitting(width: int) -> list[_Column]:
    """The columns of the lowest ranks that fit, in their own order."""
    chosen: set[_Column] = set()
    for column in sorted(_COLUMNS, key=lambda one: one.rank):
        width -= column.width + _GAP
        if width < 0:
            break
        chosen.add(column)
    return [column for column in _COLUMNS if column in chosen]
