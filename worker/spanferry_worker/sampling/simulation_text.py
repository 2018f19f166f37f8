"""A simulation as tables and bars in a terminal, and as JSON for programs."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from spanferry_worker.sampling.gathering import Gatherer
from spanferry_worker.sampling.simulation import Account, PolicyAccount, RuleAccount
from spanferry_worker.text import size_text, time_text

__all__ = ["as_json", "shown"]

_BAR_CHARS: Final = 40


def shown(console: Console, account: Account, gatherer: Gatherer) -> None:
    """Print everything."""
    for renderable in _report(account, gatherer):
        console.print(renderable, highlight=False, soft_wrap=isinstance(renderable, str))


def _report(account: Account, gatherer: Gatherer) -> Iterator[RenderableType]:
    yield _read(account, gatherer)
    yield from _left_out(account, gatherer)
    if not account.traces:
        return
    for name, policy in account.policies.items():
        yield ""
        yield _table(name, policy)
        yield from _totals(policy, account)
    yield ""
    yield _chart(account)


def _read(account: Account, gatherer: Gatherer) -> str:
    records = f"{gatherer.records:,} records ({size_text(gatherer.record_bytes)})"
    if account.first_ms is None or account.last_ms is None:
        return f"{records}: no trace to decide on"
    return (
        f"{records}, {account.traces:,} traces ({size_text(account.bytes_in)} without attachments) that "
        f"ended {time_text(account.first_ms)} to {time_text(account.last_ms)}"
    )


def _left_out(account: Account, gatherer: Gatherer) -> Iterator[str]:
    border = account.begun_before + account.unfinished
    if border:
        yield (
            f"{border:,} traces were incomplete at the borders and are left out: {account.begun_before:,} "
            f"had begun before, {account.unfinished:,} were not finished at the end"
        )
    if account.incomplete:
        yield f"{account.incomplete:,} traces are counted although something of them was missing"
    if account.late_pieces:
        yield (
            f"{account.late_pieces:,} pieces ({size_text(account.late_bytes)}) came late and follow their "
            "traces; they are not in the tables"
        )
    if gatherer.rejected:
        yield f"{gatherer.rejected:,} records would go to the dead letters"


def _table(name: str, policy: PolicyAccount) -> Table:
    table = Table(title=f"policy {name}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("rule")
    for heading in (
        "traces", "whole", "skeleton", "dropped", "bytes in", "mean", "bytes stored", "mean", "of all",
    ):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    total = policy.total
    for rule_name, rule in policy.rules.items():
        table.add_row(*_row(rule_name, rule, total))
    table.add_section()
    table.add_row(*_row("all", total, total), style="bold")
    return table


def _row(name: str, rule: RuleAccount, total: RuleAccount) -> list[str]:
    return [
        name,
        f"{rule.traces:,}",
        _share(rule.full, rule.traces),
        _share(rule.skeleton, rule.traces),
        _share(rule.dropped, rule.traces),
        size_text(rule.bytes_in),
        size_text(round(rule.bytes_in / max(1, rule.traces))),
        size_text(rule.bytes_stored),
        size_text(round(rule.bytes_stored / max(1, rule.traces))),
        _share(rule.bytes_stored, total.bytes_stored),
    ]


def _share(part: float, whole: float) -> str:
    return "-" if not whole else f"{100 * part / whole:.1f} %"


def _totals(policy: PolicyAccount, account: Account) -> Iterator[str]:
    total = policy.total
    traces, size = policy.estimated_traces, policy.estimated_bytes
    yield (
        f"stored {_share(total.bytes_stored, total.bytes_in)} of the bytes; by the weights of what is "
        f"stored: {traces:,.0f} traces ({_off(traces, account.traces)}), {size_text(round(size))} "
        f"({_off(size, account.bytes_in)})"
    )
    if policy.budget_bytes_s is not None:
        mean = total.bytes_stored / account.seconds
        yield (
            f"stored {size_text(round(mean))}/s over {account.seconds:,.0f} s, budget "
            f"{size_text(policy.budget_bytes_s)}/s ({_off(mean, policy.budget_bytes_s)}); in the busiest "
            f"minute {size_text(round(policy.busiest_minute_bytes_s))}/s"
        )


def _off(estimate: float, truth: float) -> str:
    return "-" if not truth else f"{100 * (estimate / truth - 1):+.1f} %"


def _chart(account: Account) -> Table:
    """Bytes stored by each policy and its rules, as parts of all bytes that came in."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    whole = max(1, account.bytes_in)
    for name, policy in account.policies.items():
        total = policy.total
        grid.add_row(Text(name, "bold"), _bar(total, whole), _share(total.bytes_stored, whole))
        for rule_name, rule in policy.rules.items():
            if rule.traces:
                share = _share(rule.bytes_stored, whole)
                grid.add_row(Text(f"  {rule_name}"), _bar(rule, whole), share)
    grid.add_row("", Text("█ stored  ░ not stored, of all bytes that came in"), "")
    return grid


def _bar(rule: RuleAccount, whole: int) -> Text:
    came = round(_BAR_CHARS * min(1.0, rule.bytes_in / whole))
    stored = min(came, round(_BAR_CHARS * rule.bytes_stored / whole))
    return Text("█" * stored, "green") + Text("░" * (came - stored), "bright_black")


def as_json(account: Account, gatherer: Gatherer) -> str:
    """One JSON object and a newline. Times are milliseconds since 1970, `seconds` the traces' own."""
    policies: dict[str, Any] = {
        name: {
            "rules": policy.rules,
            "total": policy.total,
            "estimated_traces": policy.estimated_traces,
            "estimated_bytes": policy.estimated_bytes,
            "late_bytes_stored": policy.late_stored,
            "budget_bytes_s": policy.budget_bytes_s,
            "stored_bytes_s": policy.total.bytes_stored / account.seconds,
            "busiest_minute_bytes_s": policy.busiest_minute_bytes_s,
        }
        for name, policy in account.policies.items()
    }
    content = {
        "records": gatherer.records,
        "record_bytes": gatherer.record_bytes,
        "records_rejected": gatherer.rejected,
        "traces": account.traces,
        "bytes_in": account.bytes_in,
        "first_ms": account.first_ms,
        "last_ms": account.last_ms,
        "seconds": account.seconds,
        "begun_before": account.begun_before,
        "unfinished": account.unfinished,
        "incomplete": account.incomplete,
        "late_pieces": account.late_pieces,
        "late_bytes": account.late_bytes,
        "policies": policies,
    }
    return msgspec.json.encode(content).decode() + "\n"
