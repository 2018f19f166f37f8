"""`--autolog openai`: an app that knows neither MLflow nor spanferry is traced."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spanferry.settings import ConfigurationError, load_settings
from spanferry_start.libraries import AUTOLOG
from tests.mlflow_api.fake_models import fake_models
from tests.processes.account import arrived
from tests.processes.program import program
from tests.services.kafka import KafkaServer
from tests.zero_code.conftest import RUN, Runs

BROKER = {"bootstrap_servers": "broker:9092"}
ASK = """
import sys
import openai
client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0)
question = [{"role": "user", "content": "What is two and three?"}]
answer = client.chat.completions.create(model="gpt-4o-mini", messages=question)
print(answer.choices[0].message.content)
"""
OPTIONS = """
import mlflow
mlflow.openai.autolog(log_traces=False)
import openai
from mlflow.utils.autologging_utils import get_autologging_config
print(get_autologging_config("openai", "log_traces"))
import spanferry
spanferry.disable()
print(get_autologging_config("openai", "disable"))
"""
OFF_AND_ON = """
import dspy, openai
print(dspy.answer)
from mlflow.utils.autologging_utils import get_autologging_config
import spanferry
for step in (lambda: None, spanferry.disable, spanferry.enable):
    step()
    print(get_autologging_config("openai", "disable"))
"""


@pytest.fixture
def models() -> Iterator[str]:
    with fake_models() as address:
        yield address


@pytest.mark.kafka
def test_the_calls_of_an_app_that_only_uses_openai(
    kafka: KafkaServer, topic: str, environment: dict[str, str], models: str
) -> None:
    words = [*RUN, "--autolog", "openai", "--", sys.executable, "-c", ASK, models]
    with program(*words, environment=environment) as running:
        assert running.ended() == 0, running.output
        assert "It is five." in running.output
    assert arrived(kafka.bootstrap_servers, topic) == {"Completions": 1}


def test_what_the_app_says_itself_holds(spanferry_run: Runs) -> None:
    done = spanferry_run("--autolog", "openai", sys.executable, "-c", OPTIONS)
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_it_ends_with_disable_and_comes_back_and_one_that_fails_is_said(
    spanferry_run: Runs, tmp_path: Path
) -> None:
    (tmp_path / "dspy.py").write_text("answer = 42")  # not what MLflow takes it for
    done = spanferry_run("--autolog", "openai,dspy", sys.executable, "-c", OFF_AND_ON)
    assert done.stdout.split() == ["42", "False", "True", "False"], done.stderr
    assert done.stderr.count("mlflow.dspy.autolog() fails: ") == 1


def test_nothing_is_imported_for_a_library_that_the_app_does_not_use(spanferry_run: Runs) -> None:
    flavors = ",".join(AUTOLOG)
    code = "import json, sys; print([m for m in ('mlflow', 'spanferry') if m in sys.modules])"
    assert spanferry_run("--autolog", flavors, sys.executable, "-c", code).stdout == "[]\n"


@pytest.mark.parametrize("flavor", AUTOLOG)
def test_every_name_is_one_of_mlflows(flavor: str) -> None:
    spec = importlib.util.find_spec("mlflow")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / flavor
    assert any("def autolog(" in path.read_text() for path in folder.glob("*.py"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("openai", ("openai",)),
        (" openai , langchain,openai,", ("openai", "langchain")),
        (["dspy"], ("dspy",)),
        ("", ()),
    ],
)
def test_names_are_a_list_or_words_with_commas(given: object, expected: tuple[str, ...]) -> None:
    assert load_settings({**BROKER, "autolog": given}, {}).autolog == expected


def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(ConfigurationError, match=r"autolog='opnai'.*did you mean openai\?"):
        load_settings({**BROKER, "autolog": "opnai"}, {})
    with pytest.raises(ConfigurationError, match="known are ag2"):
        load_settings({**BROKER, "autolog": [3]} | {"autolog": "zzz"}, {})
