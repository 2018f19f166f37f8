"""What `demo` and `dev` say on the terminal."""

import contextlib
from collections.abc import Callable, Generator, Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from spanferry_worker.dev.account import Balance, Cost
from spanferry_worker.dev.ensemble import Ensemble
from spanferry_worker.dev.outcome import Outcome

__all__ = ["Screen"]

_FAULTS_SHOWN = 20


class Screen:
    """Everything is said through this, sparsely."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)

    @contextlib.contextmanager
    def starting(self) -> Generator[Callable[[str], None]]:
        """Says which part is being waited for."""
        with self._console.status("starting") as status:
            yield lambda part: status.update(f"starting {part}")

    def started(self, ensemble: Ensemble) -> None:
        """Kafka, MLflow and a worker are up."""
        self._say("Kafka", f"{ensemble.bootstrap_servers}  [dim]embedded, in memory[/]")
        self._say("MLflow", f"{ensemble.tracking_uri}  [dim]SQLite in {ensemble.directory}[/]")
        self._say("worker", f"{ensemble.health_url}/metrics")

    def started_app(self, url: str) -> None:
        """The demo's app is up as well."""
        self._say("app", f"{url}/docs")
        self._console.print()

    @contextlib.contextmanager
    def counting(self, what: str, total: int) -> Generator[Callable[[int], None]]:
        """A bar; the callback sets how many are done."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(what, total=total)
            yield lambda count: progress.update(task, completed=count)

    def killed(self, pid: int) -> None:
        """The worker was killed on purpose."""
        self._console.print(f"[yellow]worker {pid} killed with -9, another one is starting[/]")

    def summary(self, outcome: Outcome) -> None:
        """The account, the costs, and where to look."""
        self._console.print()
        self._balance(outcome)
        self._console.print()
        self._console.print(_cost_table(outcome.costs))
        self._console.print("[dim]wall time in the app, while all of this runs beside it[/]")
        self._console.print()

    def look(self, title: str, lines: Sequence[str]) -> None:
        """A title and lines to be copied, never wrapped."""
        self._console.print(f"[bold]{title}[/]")
        for line in lines:
            self._console.print(Text(f"  {line}"), soft_wrap=True)
        self._console.print()

    def stay(self) -> None:
        """Nothing more happens."""
        self._console.print("[dim]Ctrl-C ends everything.[/]")

    def failure(self, message: str) -> None:
        """Something did not start."""
        self._console.print(Text(message, style="red"), soft_wrap=True)

    def _balance(self, outcome: Outcome) -> None:
        books = outcome.balance
        mark = "[green]✓[/]" if not books.wrong else "[red]✗[/]"
        self._console.print(
            f"{mark} [bold]{books.complete} of {books.sent}[/] traces are in MLflow, complete"
        )
        self._console.print(
            f"  ratings {books.ratings_stored} of {books.ratings_sent} · dropped by the app "
            f"{outcome.dropped} · dead letters {outcome.dead_letters}"
        )
        self._console.print(
            f"  [dim]sent in {outcome.traffic_s:.0f} s, the last stored {outcome.arrival_s:.0f} s "
            "later[/]"
        )
        self._faults(books)

    def _faults(self, books: Balance) -> None:
        for request_id, fault in list(books.wrong.items())[:_FAULTS_SHOWN]:
            self._console.print(Text(f"  {request_id}: {fault}", style="red"), soft_wrap=True)
        if len(books.wrong) > _FAULTS_SHOWN:
            self._console.print(f"  … and {len(books.wrong) - _FAULTS_SHOWN} more")

    def _say(self, part: str, text: str) -> None:
        self._console.print(f"[bold]{part:<8}[/]{text}", soft_wrap=True)


def _cost_table(costs: Sequence[Cost]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("conversation")
    table.add_column("requests", justify="right")
    table.add_column("tracing on the app's thread, p50", justify="right")
    table.add_column("p99", justify="right")
    for cost in costs:
        table.add_row(
            cost.size, str(cost.requests), f"{cost.p50_ms:.2f} ms", f"{cost.p99_ms:.2f} ms"
        )
    return table
