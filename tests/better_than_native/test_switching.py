"""disable() gives MLflow back, and nothing that MLflow does anew loses the bridge."""

import pytest

from tests.producer.topic import read_topic

pytestmark = [pytest.mark.kafka, pytest.mark.mlflow]

NATIVE = {0, 2}


@pytest.mark.parametrize("accelerate", [True, False])
def test_off_and_on_again(line, accelerate):
    experiment = line.new_experiment()
    done = line.run("switching", experiment, accelerate=accelerate)
    replaced = "mlflow.start_span" in done["taken"]
    assert replaced is accelerate, done["taken"]
    assert ("__main__.imported_by_name" in done["taken"]) is accelerate
    assert done["left"] == []
    assert done["ferried"] == dict.fromkeys(done["ferried"], 1)
    assert len(done["ferried"]) == 7
    found = line.wait_for(experiment, done["made"])
    assert sorted(one.number for one in found) == list(range(done["made"]))
    keys = {f"tr-{one.key.hex()}" for one in read_topic(line.kafka.bootstrap_servers, line.topic)}
    assert {one.number for one in found if one.trace_id not in keys} == NATIVE
