"""A policy in words: every condition and action has some, and they say the numbers."""

import msgspec
import pytest

from spanferry_worker import cli
from spanferry_worker.sampling.sentences import condition_sentence, policy_sentences, rule_sentence
from spanferry_worker.stages.sample import Action, Otherwise, Rule, SamplingPolicy

VALUES = {
    bool | None: True,
    int | None: 7,
    float | None: 7.5,
    list[str] | None: ["a*", "b"],
    dict[str, str] | None: {"key": "v*"},
}
CONDITIONS = [field.name for field in msgspec.structs.fields(Rule) if field.type in VALUES][2:]


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_condition_has_words(name: str):
    value = VALUES[next(f.type for f in msgspec.structs.fields(Rule) if f.name == name)]
    if name == "states":
        value = ["OK"]
    rule = Rule(name="r", action=Action.KEEP, **{name: value})
    assert list(rule.conditions) == [name]
    sentence = condition_sentence(name, value)
    shown = {"list": '"a*" or "b"', "dict": 'key = "v*"', "int": "7", "float": "7.5"}
    if name != "states":
        assert shown.get(type(value).__name__, "") in sentence
    if value is True:
        assert condition_sentence(name, value=False) != sentence


def test_actions_say_what_happens_otherwise():
    policy = SamplingPolicy(rules=[])
    some = Rule(name="r", action=Action.PROBABILITY, probability=0.1, otherwise=Otherwise.DROP)
    assert rule_sentence(some, policy) == (
        "every trace: stored whole with the probability 0.1, else dropped"
    )
    drop = Rule(name="r", names=["health*"], action=Action.DROP)
    assert rule_sentence(drop, policy) == 'where its name is "health*": dropped'


def test_the_default_policy_in_words():
    assert list(policy_sentences(SamplingPolicy())) == [
        "  1. errors    where it or one of its spans failed: stored whole",
        "  2. feedback  where feedback came with it: stored whole",
        "  3. slow      where it took longer than 99 of 100 traces of its name: stored whole",
        "  4. size      every trace: stored whole up to 100.0 KB, larger ones with the probability "
        "100.0 KB / size, else as a skeleton",
    ]
    assert list(policy_sentences(SamplingPolicy(target_bytes=0))) == [
        "     every trace: stored whole"
    ]


FILE = """
[kafka]
topic = "mine"
[sample]
budget_bytes_s = 1000000
[[sample.rules]]
name = "big"
bytes_min = 1000
action = "budget"
[sample.shadow]
target_bytes = 0
"""


def test_check_reads_a_file(tmp_path, capsys):
    path = tmp_path / "policy.toml"
    path.write_text(FILE)
    assert cli.main(["sampling", "check", str(path), "--topic=traces"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: good"
    assert lines[1].startswith(
        "  1. big  where it has at least 1.0 KB: stored whole as far as the fleet's budget of 1.0 MB a"
    )
    assert lines[2] == "     every other trace: stored whole"
    assert lines[3] == "shadow, without effect but on metrics:"
    assert lines[4] == "     every trace: stored whole"
    assert lines[5] == "needs the topic traces.sampling, where workers agree on the budget's target"


def test_check_refuses_and_names_the_rule(tmp_path, capsys):
    path = tmp_path / "policy.toml"
    path.write_text(FILE.replace("bytes_min = 1000", "bytes_min = 5\nbytes_max = 4"))
    assert cli.main(["sampling", "check", str(path)]) == 3
    said = capsys.readouterr().err
    assert "rule 'big': bytes_min=5 is above bytes_max=4" in said
    assert str(path) in said
