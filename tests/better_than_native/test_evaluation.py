"""An evaluation reads its traces back at once: it runs as natively while spanferry is enabled."""

import pytest

pytestmark = [pytest.mark.kafka, pytest.mark.mlflow]


def test_evaluate_is_as_natively(native, line):
    alone = native.run("evaluation", native.new_experiment())
    assert alone["metrics"] == {"exact/mean": pytest.approx(2 / 3)}
    assert [one[0] for one in alone["traces"]] == ["a", "b", "c"]
    assert alone["traces"][0][2] == [["answer", "A"], ["exact", "True"]]

    for accelerate in (True, False):
        experiment = line.new_experiment()
        ferried = line.run("evaluation", experiment, accelerate=accelerate)
        assert ferried.account == alone.account
        around = [one.number for one in line.wait_for(experiment, 5) if one.number is not None]
        assert sorted(around) == [0, 1]
