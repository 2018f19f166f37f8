"""The demo's books: what is wrong with which trace, and what tracing took."""

import pytest

from spanferry_worker.dev.account import Metered, Stored, balance, costs, percentile
from spanferry_worker.dev.traffic import Reply, Request


def reply(
    number: int, *, size: str = "1 KB", status: int = 200, helpful: bool | None = None
) -> Reply:
    request = Request(f"r{number}", size, False, "s", "u", {}, helpful)
    return Reply(request, status)


def stored(number: int, *, spans: int = 5, failed: bool = False, ratings: int = 0) -> Stored:
    return Stored(f"tr-{number}", f"r{number}", spans, failed, ratings)


METERED = {f"r{number}": Metered(5, 1_000_000) for number in range(10)}


def test_everything_is_there() -> None:
    books = balance(
        [reply(1), reply(2, status=503), reply(3, helpful=False)],
        METERED,
        [stored(1), stored(2, failed=True), stored(3, ratings=1)],
    )
    assert books.wrong == {}
    assert (books.sent, books.stored, books.complete) == (3, 3, 3)
    assert (books.ratings_sent, books.ratings_stored) == (1, 1)


@pytest.mark.parametrize(
    ("sent", "found", "fault"),
    [
        (reply(1), [], "0 traces in MLflow"),
        (reply(1), [stored(1), stored(1)], "2 traces in MLflow"),
        (reply(1), [stored(1, spans=4)], "tr-1 has 4 of 5 spans"),
        (reply(1), [stored(1, failed=True)], "tr-1 has the wrong status"),
        (reply(1, status=500), [stored(1)], "tr-1 has the wrong status"),
        (reply(1, helpful=True), [stored(1)], "tr-1 has 0 of 1 ratings"),
        (reply(1), [stored(1, ratings=1)], "tr-1 has 1 of 0 ratings"),
        (reply(1, status=0), [stored(1)], "the app did not answer"),
        (reply(99), [], "the app did not answer"),
    ],
)
def test_every_fault_is_told(sent: Reply, found: list[Stored], fault: str) -> None:
    books = balance([sent, reply(2)], METERED, [*found, stored(2)])
    assert books.wrong == {sent.request.request_id: fault}
    assert books.complete == 1


def test_costs_by_size() -> None:
    replies = [reply(number, size="1 MB" if number == 9 else "10 B") for number in range(10)]
    metered = {f"r{number}": Metered(5, (number + 1) * 1_000_000) for number in range(10)}
    small, large = costs(replies, metered)
    assert (small.size, small.requests, small.p50_ms, small.p99_ms) == ("10 B", 9, 5.0, 9.0)
    assert (large.size, large.requests, large.p50_ms, large.p99_ms) == ("1 MB", 1, 10.0, 10.0)


def test_percentiles() -> None:
    values = list(range(1, 101))
    assert percentile(values, 0.5) == 51
    assert percentile(values, 0.99) == 100
    assert percentile([7], 0.99) == 7
