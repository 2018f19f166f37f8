"""Giant values are recorded as any others, and others have their turns meanwhile."""

import json
import math
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import spanferry
from spanferry import giants
from spanferry.buffer import new_buffer
from spanferry.giants import GIANT_BYTES, NAMES_MAX, encode_in_pieces, remember
from spanferry.process import PROCESS
from spanferry.settings import DropPolicy, Settings
from spanferry.testing import capture
from spanferry.values import STRICT, dumps

TEXT = 'für "you"\n\u2028 \U0001f600 '
LEAVES = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text() | st.floats()
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=40,
)


@pytest.fixture(autouse=True)
def calm() -> Any:
    PROCESS.giants.clear()
    yield
    PROCESS.giants.clear()


def whole(value: object) -> bytes:
    return dumps(value, None, STRICT)[:-1]


@settings(max_examples=60)
@given(JSON)
def test_pieces_are_what_one_call_gives(value: Any) -> None:
    before = giants.PIECE_BYTES, giants._RUN_MAX, giants._NODES_MAX
    giants.PIECE_BYTES, giants._RUN_MAX, giants._NODES_MAX = 3, 2, 2  # type: ignore[misc]
    try:
        expected: Any = whole(value)
    except Exception as error:
        expected = type(error)
    try:
        found: Any = encode_in_pieces(value)
    except Exception as error:
        found = type(error)
    finally:
        giants.PIECE_BYTES, giants._RUN_MAX, giants._NODES_MAX = before  # type: ignore[misc]
    assert found == expected


@pytest.mark.parametrize(
    "value",
    [
        TEXT * 100_000,
        [{"id": number, "name": TEXT, "score": math.pi} for number in range(20_000)],
        {str(number): TEXT for number in range(20_000)},
        {"messages": [{"role": "user", "content": TEXT * 100_000}, {"role": "tool"}], 'a"b': ()},
        (TEXT * 100_000, [[TEXT * 50_000], None]),
        [[0] * 100_000],
    ],
    ids=["text", "rows", "keys", "messages", "tuple", "numbers"],
)
def test_giants_are_written_piece_by_piece(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[int] = []
    monkeypatch.setattr(giants, "give_way", lambda: ways.append(1))
    text = encode_in_pieces(value)

    assert text == whole(value)
    assert len(ways) >= len(text) // giants.PIECE_BYTES // 4 >= 0
    small = encode_in_pieces({"messages": [{"role": "user", "content": TEXT}]})
    assert small == whole({"messages": [{"role": "user", "content": TEXT}]})


@pytest.mark.parametrize("of", [list, dict])
def test_a_giant_among_many_small_ones_is_written_by_itself(
    of: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the messages of a long chat."""
    sizes: list[int] = []

    def seen(*arguments: Any) -> bytes:
        text: bytes = dumps(*arguments)
        sizes.append(len(text))
        return text

    monkeypatch.setattr(giants, "dumps", seen)
    members: list[Any] = ["short"] * 300 + [{"content": "x" * 5_000_000}] + ["y" * 100_000] * 300
    value = members if of is list else dict(zip(map(str, range(601)), members, strict=True))
    assert encode_in_pieces(value) == whole(value)
    assert max(sizes) < 4 * giants.PIECE_BYTES


@pytest.mark.parametrize("of", [list, dict])
def test_what_another_thread_empties_meanwhile_is_json_all_the_same(
    of: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner: Any = ["x" * 1_000_000] if of is list else {"a": "x" * 1_000_000}
    is_large = giants._is_large

    def emptied(value: object) -> bool:
        large = is_large(value)
        if value is inner:
            inner.clear()
        return large

    monkeypatch.setattr(giants, "_is_large", emptied)
    pieces = giants._Pieces()
    pieces.add({"in": inner, "z": "y" * 1_000_000}, 0)
    assert json.loads(b"".join(pieces.made))["in"] in ([], {})


def test_what_holds_itself_ends_at_once() -> None:
    knot: list[Any] = []
    knot += [knot] * 100
    began = time.perf_counter()
    with pytest.raises(TypeError):
        encode_in_pieces(knot)
    assert time.perf_counter() - began < 5


def giant(size: int) -> None:
    with spanferry.start_span("giant") as span:
        span.set_inputs({"text": "x" * size})
        span.set_outputs(["y" * size, {1, 2}])  # a set is no JSON: the other way


def test_a_name_is_remembered_from_its_first_giant_on(monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[int] = []
    monkeypatch.setattr(giants, "give_way", lambda: ways.append(1))
    with capture() as captured:
        giant(GIANT_BYTES // 4)
        assert not PROCESS.giants
        giant(GIANT_BYTES)
        assert PROCESS.giants == {"giant"}
        assert ways == []
        giant(GIANT_BYTES)
        assert len(ways) >= GIANT_BYTES // giants.PIECE_BYTES
        with spanferry.start_span("small") as span:
            span.set_inputs("z")
    first, second = captured.traces[1:3]
    assert first.root.encoded_attributes() == second.root.encoded_attributes()
    assert second.root.outputs == ["y" * GIANT_BYTES, [1, 2]]
    assert captured.traces[3].root.inputs == "z"


def test_names_are_bounded_and_forgotten_with_the_buffer() -> None:
    buffer = new_buffer(1_000_000, DropPolicy.OLDEST)
    remember("GET /" + "x" * 250)  # whatever a client has made up
    assert not PROCESS.giants
    for number in range(NAMES_MAX + 5):
        remember(f"name {number}")
    remember(["no text"])
    assert len(PROCESS.giants) == NAMES_MAX
    assert not PROCESS.roomy
    buffer.release(0)
    assert not PROCESS.roomy  # else nothing would be written in pieces
    new_buffer(1_000_000, DropPolicy.OLDEST)
    assert not PROCESS.giants
    assert PROCESS.roomy


def test_a_span_is_still_cut_where_the_option_says_so() -> None:
    options = Settings(bootstrap_servers="none:1", payload_bytes_max=2 * GIANT_BYTES)
    with capture(options) as captured:
        giant(GIANT_BYTES // 2)
        giant(3 * GIANT_BYTES)
        giant(3 * GIANT_BYTES)
    whole, *cut = captured.traces
    assert "spanferry.cut" not in whole.root.attributes
    assert [one.root.attributes["spanferry.cut"] for one in cut] == [
        {"mlflow.spanInputs": 3 * GIANT_BYTES + 11, "mlflow.spanOutputs": 3 * GIANT_BYTES + 10}
    ] * 2


def test_other_threads_run_while_a_giant_is_written() -> None:
    """One call for 60 MB would hold all others up for some 60 ms; counted are turns, not time."""
    value = {"documents": ["x" * 2_000_000 for _ in range(30)]}
    turns, ended = [0], threading.Event()

    def neighbour() -> None:
        while not ended.is_set():
            turns[0] += 1
            time.sleep(0.0002)

    thread = threading.Thread(target=neighbour)
    thread.start()
    try:
        turns[0] = 0
        whole(value)
        in_one_call = turns[0]
        turns[0] = 0
        encode_in_pieces(value)
        in_pieces = turns[0]
    finally:
        ended.set()
        thread.join()
    assert in_pieces > in_one_call + 5
