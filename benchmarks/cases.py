"""What is measured side by side: the main table, and series in which one thing varies."""

import msgspec

__all__ = ["ALL", "MAIN", "SERIES", "Case", "Point", "Series"]

EVERY = (
    "spanferry", "bridge", "bridge-plain", "mlflow-pop", "mlflow", "mlflow-server", "otel", "langfuse",
    "langsmith", "untraced",
)  # fmt: skip
OWN_AND_NATIVE = ("spanferry", "bridge", "mlflow-pop", "mlflow", "otel")
WITH_DECORATOR = ("spanferry", "bridge", "bridge-plain", "mlflow-pop", "mlflow")


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of trace in one rhythm, and the tiers that make it."""

    payload: str
    size: int
    shape: str = "chat"
    """chat or rows: five spans; tree: as many as `spans` says."""
    spans: int = 5
    style: str = "with"
    """with, decorated, tree or async: a recorder."""
    mode: str
    """tight, paced or async."""
    rate: float = 0.0
    threads: int = 1
    count: int
    """Traces in a block."""
    seconds: float = 0.0
    """Of a tight block; it goes on until then, within the burst limit."""
    encode: bool = False
    """Compare with one msgspec encode of the same payload."""
    tiers: tuple[str, ...] = OWN_AND_NATIVE

    @property
    def name(self) -> str:
        spans = "" if self.spans == 5 else f"/{self.spans} spans"
        threads = "" if self.threads == 1 else f"/{self.threads} threads"
        style = "" if self.style in {"with", self.mode} else f"/{self.style}"
        return f"{self.payload}{spans}/{self.how}{threads}{style}"

    @property
    def how(self) -> str:
        return f"{self.mode} {self.rate:g}/s" if self.rate else self.mode


class Point(msgspec.Struct, frozen=True):
    """A case in its place on a series' axis."""

    label: str
    x: float
    case: Case


class Series(msgspec.Struct, frozen=True):
    """Cases that differ in one thing."""

    name: str
    title: str
    axis: str
    points: tuple[Point, ...]


_TIGHT = Case(payload="10 KB", size=10_000, mode="tight", count=150, seconds=0.3, tiers=EVERY)
_PACED = Case(payload="10 KB", size=10_000, mode="paced", rate=100, count=300, tiers=EVERY)
_FAST = Case(payload="10 KB", size=10_000, mode="paced", rate=1000, count=400, tiers=EVERY)

MAIN = (_PACED, _FAST, _TIGHT)
"""All tiers, five spans of 10 KB."""


def _sized(payload: str, size: int, rate: float, count: int, shape: str = "chat") -> Case:
    return Case(
        payload=payload, size=size, shape=shape, mode="paced", rate=rate, count=count,
        encode=size >= 1_000_000,
    )  # fmt: skip


_MB = _sized("1 MB", 1_000_000, 20, 24)
_SIZES = (
    Point("1 KB", 1e3, _sized("1 KB", 1_000, 100, 120)),
    Point("10 KB", 1e4, _PACED),
    Point("100 KB", 1e5, _sized("100 KB", 100_000, 100, 120)),
    Point("1 MB", 1e6, _MB),
    Point("10 MB", 1e7, _sized("10 MB", 10_000_000, 2, 5)),
)
_KINDS = (
    Point("1 MB of long strings", 1, _MB),
    Point("1 MB of 15,000 small dicts", 2, _sized("1 MB rows", 1_000_000, 2, 5, "rows")),
)


def _with_spans(spans: int) -> Point:
    case = Case(
        payload="10 KB", size=10_000, shape="tree", spans=spans, style="tree", mode="paced",
        rate=20, count=40,
    )  # fmt: skip
    return Point(f"{spans}", spans, case)


_replace = msgspec.structs.replace
_DECORATED = tuple(
    _replace(case, style="decorated", tiers=WITH_DECORATOR) for case in (_PACED, _TIGHT)
)
_THREADED = tuple(_replace(case, threads=8, tiers=OWN_AND_NATIVE) for case in (_PACED, _TIGHT))
_TASKS = _replace(
    _PACED, style="async", mode="async", tiers=(*OWN_AND_NATIVE, "untraced"), count=150
)

SERIES = (
    Series("size", "Size of the trace, long strings", "bytes of inputs and outputs", _SIZES),
    Series("kind", "What a megabyte is made of", "", _KINDS),
    Series(
        "spans",
        "Number of spans, 10 KB between them",
        "spans of the trace",
        tuple(_with_spans(spans) for spans in (1, 5, 20, 50, 200)),
    ),
    Series(
        "threads",
        "Threads",
        "",
        (
            Point("1 thread, 100/s", 1, _PACED),
            Point("8 threads, 100/s in all", 8, _THREADED[0]),
            Point("1 thread, tight", 1, _TIGHT),
            Point("8 threads, tight", 8, _THREADED[1]),
        ),
    ),
    Series(
        "asyncio",
        "Concurrent tasks of one event loop",
        "",
        (Point("100/s, each away 4 x 10 ms", 1, _TASKS),),
    ),
    Series(
        "decorator",
        "Context managers and decorators",
        "",
        (
            Point("with, 100/s", 1, _PACED),
            Point("@trace, 100/s", 2, _DECORATED[0]),
            Point("with, tight", 1, _TIGHT),
            Point("@trace, tight", 2, _DECORATED[1]),
        ),
    ),
)

ALL: tuple[Case, ...] = tuple(
    {
        case.name: case for case in (*MAIN, *(point.case for one in SERIES for point in one.points))
    }.values()
)
"""Each case once, the main ones first."""
