"""One record shown whole: what it says, what it keeps back, and that nothing can fail it."""

from hypothesis import given
from hypothesis import strategies as st

from spanferry_schemas import Chunk, SpanEvent, SpanLink, TracePart
from spanferry_worker.dlq.showing import shown
from spanferry_worker.stages.dead_letter import letter_headers
from spanferry_worker.stages.receipts import Receipt, write_receipt
from tests.worker.events import attachment, feedback, fragment, header, number, record, span

SECRET = "canary"
WHY = letter_headers([header(12), ("mine", b"kept")], {"reason": "refused", "message": "too\nbad"})


def text(value, *, payload: bool = False, headers=WHY) -> str:
    return "\n".join(shown(record(value, 7, headers=headers), payload=payload))


def everything():
    """A fragment with something of every kind, and the secret wherever an app can put one."""
    root = span(
        1,
        name="answer",
        status_message=SECRET,
        attributes={"mlflow.spanInputs": f'"{SECRET}"'.encode()},
        events=[SpanEvent("exception", 1, f'{{"message":"{SECRET}"}}'.encode())],
        links=[SpanLink(number(9), number(8, 8))],
    )
    part = TracePart(
        experiment_id="42",
        request_preview=SECRET,
        response_preview=SECRET,
        tags={"tier": SECRET},
        metadata={"mlflow.trace.user": SECRET},
        model_params={"temperature": SECRET},
        prompts=(("greeting", "3"),),
        deleted_tags=("old",),
    )
    return fragment(1, [root, span(2, parent=1, end_ns=0)], part=part, attachments=[attachment()])


def test_a_fragment_shows_names_and_sizes():
    lines = text(everything())
    for wanted in (
        "0:7 of spanferry.traces: a dead letter",
        "spanferry: fragment, record 12 of producer 70726f6475636572",
        "mine: kept",
        "dlq.reason: refused",
        "dlq.message: too\\nbad",
        "dlq.attempts: 1",
        "trace: tr-00000000000000000000000000000001",
        "experiment id: 42",
        "request preview: (6 bytes)",
        "tag: tier = (6 bytes)",
        "prompt: greeting 3",
        "deleted tag: old",
        "answer  CHAIN  OK  5.0 ms  8 bytes",
        "mlflow.spanInputs: (8 bytes)",
        "event exception: (20 bytes)",
        "link: tr-00000000000000000000000000000009",
        "span-2  CHAIN  OK  not ended",
        "image/png, 20 bytes",
    ):
        assert wanted in lines
    assert SECRET not in lines


def test_payload_shows_what_the_app_recorded():
    assert text(everything(), payload=True).count(SECRET) == 8


def test_feedback_keeps_its_value_back_too():
    assert "value: (4 bytes)" in text(feedback())
    assert "value: true" in text(feedback(), payload=True)
    assert "client request id: r-1" in text(feedback(trace_id=None, request="r-1"))


def test_a_piece_says_which():
    piece = Chunk(number(1), b"g" * 8, 2, 5, 4_000, b"x" * 900)
    assert "piece 3 of 5 of a value of 4.0 KB, group 6767676767676767, 900 bytes" in text(piece)


def test_bytes_that_do_not_decode_are_shown_as_bytes():
    lines = text(b"not a record\x00" + SECRET.encode() * 100)
    assert "cannot be decoded, unknown_version: version byte 110" in lines
    assert "000000  6e 6f 74 20 61 20 72 65 63 6f 72 64 00" in lines
    assert "not a record." in lines
    assert "... 581 bytes more" in lines
    assert "000250" in text(b"not a record\x00" + SECRET.encode() * 100, payload=True)
    assert "cannot be decoded, empty" in text(None)


def test_a_receipt_is_called_one():
    value, headers = write_receipt(Receipt("traces", [(1, 3)], 5, "1.2"))
    lines = text(value, headers=headers)
    assert "a receipt of a replay" in lines
    assert '"offsets":[[1,3]]' in lines


@given(
    st.one_of(st.none(), st.binary(max_size=80), st.binary(max_size=60).map(b"\x01".__add__)),
    st.lists(st.tuples(st.text(max_size=4), st.one_of(st.none(), st.binary(max_size=9)))),
    st.booleans(),
)
def test_nothing_fails_it_and_every_line_is_printable(value, headers, payload):
    for line in shown(record(value, headers=headers), payload=payload):
        assert line.isprintable()
