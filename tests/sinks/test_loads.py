"""Which spans go in one request: nothing is left out or sent twice, and culprits are found by halves."""

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.entities import Span

from spanferry_worker.errors import PoisonError
from spanferry_worker.services.mlflow_build_spans import SpanBuilder
from spanferry_worker.services.mlflow_http import HTTP_LIMITS
from spanferry_worker.services.mlflow_loads import Load, Loads
from spanferry_worker.services.mlflow_text import Texts
from tests.sinks.stores import ids, span

pytestmark = pytest.mark.mlflow

BUILDER = SpanBuilder(Texts(HTTP_LIMITS))
POOL: dict[int, Span] = {}


def a_span(size: int) -> Span:
    """Of about so many characters; made once, for names do not matter here."""
    if size not in POOL:
        made = span(ids(1)[0], attributes={"a": b'"' + b"x" * size + b'"'})
        POOL[size] = BUILDER.entity(bytes(16), made)
    return POOL[size]


SIZES = st.lists(
    st.lists(st.integers(0, 400).map(lambda n: n * 10), min_size=1, max_size=6), max_size=12
)


def run(loads: Loads, server: Callable[[Load], str]) -> list[Load]:
    """Send all; what was taken."""
    taken: list[Load] = []
    for _ in range(2_000):
        if (load := loads.load) is None:
            return taken
        answer = server(load)
        if answer == "ok":
            loads.accepted()
            taken.append(load)
        elif answer == "large" and loads.halve():
            continue
        else:
            loads.refuse(PoisonError(answer))
    raise AssertionError("it does not end")


@settings(max_examples=40)
@given(
    sizes=SIZES, bytes_max=st.integers(500, 9_000), limit=st.integers(200, 9_000), data=st.data()
)
def test_all_is_sent_once_or_refused_by_name(
    sizes: list[list[int]], bytes_max: int, limit: int, data: st.DataObject
) -> None:
    spans = {f"t{n}": [a_span(size) for size in each] for n, each in enumerate(sizes)}
    experiments = {key: f"e{n % 2}" for n, key in enumerate(spans)}
    poison = data.draw(st.sets(st.sampled_from(sorted(spans)), max_size=3)) if spans else set()
    loads = Loads(experiments, spans, bytes_max=bytes_max, traces_max=4)
    tries = 0

    def server(load: Load) -> str:
        nonlocal tries
        tries += 1
        assert 1 <= len(load.pieces) <= 4
        assert {experiments[key] for key in load.pieces} == {load.experiment_id}
        if load.size > limit:
            return "large"
        return "poison" if poison & load.pieces.keys() else "ok"

    taken = run(loads, server)
    pieces = Counter(key for load in taken for key in load.pieces)
    large = {
        key for key, each in spans.items() if any(Load("", {key: [s]}).size > limit for s in each)
    }
    assert poison <= loads.refused.keys() <= poison | large
    for key, each in spans.items():
        sent = [s for load in taken for s in load.pieces.get(key, ())]
        if key in loads.refused:
            assert len(sent) < len(each)
        else:
            assert Counter(map(id, sent)) == Counter(map(id, each))
            assert (pieces[key] > 1) <= (key in loads.cut)
    assert tries <= 2 * sum(map(len, sizes)) * 12 + 10


def test_loads_are_as_full_as_they_may_be() -> None:
    spans = {f"t{n}": [a_span(100), a_span(100)] for n in range(10)}
    size = Load("", {"": spans["t0"]}).size
    loads = Loads(dict.fromkeys(spans, "e"), spans, bytes_max=size * 3, traces_max=100)
    assert [len(load.pieces) for load in run(loads, lambda _: "ok")] == [3, 3, 3, 1]
    assert not loads.cut
