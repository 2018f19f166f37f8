"""How often, how large and how many at once a tracking server is asked."""

from typing import Any

import pytest

from spanferry_worker.settings import HttpSettings
from spanferry_worker.stages.requests import RequestPace, RequestPolicy, SizeLimit, retry_after_s

UNIX_S = 1_760_000_000.0  # Thu, 09 Oct 2025 08:53:20 GMT


def test_without_a_limit_nobody_waits() -> None:
    pace = RequestPace(None)
    assert [pace.take(now) for now in (0.0, 0.0, 5.0)] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("per_s", [3.0, 50.0, 400.0])
def test_never_more_than_the_rate_and_a_tenth_of_a_second_of_it(per_s: float) -> None:
    pace = RequestPace(per_s)
    at_s = sorted(now + pace.take(now) for now in [100.0] * 60 + [101.0] * 500 + [108.0] * 30)
    burst = max(1.0, per_s / 10)
    for index, first in enumerate(at_s):
        within = sum(1 for each in at_s[index:] if each < first + 1.0 - 1e-9)
        assert within <= per_s + burst + 1e-6
    waits = RequestPace(per_s)
    assert [waits.take(7.0) for _ in range(61)][-1] == pytest.approx(max(0, 61 - burst) / per_s)


def test_a_server_is_left_alone_as_long_as_it_asks_but_not_for_ever() -> None:
    pace = RequestPace(None, closed_max_s=60)
    assert pace.closed_s(10.0) == 0.0
    pace.close(10.0, 5.0)
    pace.close(10.0, 2.0)
    assert pace.closed_s(12.0) == 3.0
    assert pace.closed_s(15.0) == 0.0
    pace.close(20.0, 86_400.0)
    assert pace.closed_s(20.0) == 60.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("-3", 0.0),
        ("1.5", 1.5),
        ("Thu, 09 Oct 2025 08:54:20 GMT", 60.0),
        ("Thu, 09 Oct 2025 08:53:20", 0.0),
        ("Wed, 08 Oct 2025 08:53:20 GMT", 0.0),
        ("soon", None),
        ("inf", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str | None, seconds: float | None) -> None:
    assert retry_after_s(text, UNIX_S) == seconds


def test_what_was_too_large_is_not_tried_again_and_what_was_too_slow_is() -> None:
    limit = SizeLimit(4_000_000)
    limit.too_slow()
    assert limit.bytes_max == 2_000_000
    for _ in range(100):
        limit.accepted()
    assert limit.bytes_max == 4_000_000
    limit.too_large(1_000_000)
    assert limit.bytes_max == 500_000, "by what was sent, not by what might have been"
    for _ in range(100):
        limit.accepted()
    assert limit.bytes_max == 500_000
    for _ in range(20):
        limit.too_large(1)
        limit.too_slow()
    assert limit.bytes_max == SizeLimit.LEAST
    small = SizeLimit(1_000)
    small.too_large(900)
    assert small.bytes_max == 1_000, "a limit below the least one is the user's own"


def test_headers_are_sent_and_shown_to_nobody() -> None:
    for policy in (
        RequestPolicy(headers={"X-Key": "s3cret"}),
        HttpSettings(headers={"X": "s3cret"}),
    ):
        assert "s3cret" not in f"{policy} {policy!r} {policy.headers}"
        assert list(policy.plain_headers().values()) == ["s3cret"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"requests_per_s": 0.0},
        {"requests_at_once_max": 0},
        {"request_traces_max": 0},
        {"request_bytes_max": 0},
        {"retry_after_max_s": -1.0},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RequestPolicy(**wrong)
