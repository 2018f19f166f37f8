"""Where MLflow's own exporter loses traces in its default configuration, and spanferry none."""

import pytest

pytestmark = [pytest.mark.kafka, pytest.mark.mlflow]


def numbers_of(found):
    return sorted(one.number for one in found if one.number is not None)


def test_children_forked_after_the_first_trace(native, line, note):
    experiment = native.new_experiment()
    alone = native.run("fork", experiment, flush_s=5)
    assert alone["parent_flushed"]
    kept = [number for number in numbers_of(native.stored(experiment)) if number >= 0]
    note(f"native: {len(kept)} of 40 stored, the flush hangs in {alone['hung']} of 4 children")
    assert (kept, alone["hung"]) == ([], 4)

    experiment = line.new_experiment()
    ferried = line.run("fork", experiment, flush_s=40)
    assert ferried["hung"] == 0
    assert numbers_of(line.wait_for(experiment, 41)) == list(range(-1, 40))


def test_spans_of_the_remote_service(native, line, note):
    experiment = native.new_experiment()
    native.run("remote", experiment, flush_s=4)
    spans = [one.spans for one in native.stored(experiment)]
    note(f"native: {sum(spans)} of 30 spans stored, in {len(spans)} traces")
    assert sum(spans) < 30

    experiment = line.new_experiment()
    assert line.run("remote", experiment, flush_s=40)["flushed"]
    found = line.wait_for(experiment, 10, spans=3)
    assert numbers_of(found) == list(range(10))
    assert [one.spans for one in found] == [3] * 10


def test_many_traces_open_at_once(native, line, note):
    experiment = native.new_experiment()
    native.run("many_open", experiment, count=1_200, flush_s=15)
    kept = numbers_of(native.stored(experiment))
    note(f"native: {len(kept)} of 1,200 stored")
    assert len(kept) <= 1_000

    experiment = line.new_experiment()
    line.run("many_open", experiment, count=2_000, flush_s=60)
    found = line.wait_for(experiment, 2_000, seconds=150)
    assert numbers_of(found) == list(range(2_000))
    assert {one.spans for one in found} == {1}
