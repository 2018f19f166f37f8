"""What leaves the doctor: levels, and nothing secret."""

import json

from spanferry_worker.doctor.cli import as_json, as_text
from spanferry_worker.doctor.findings import Area, good, healthy, mask, note, problem

FOUND = [
    good(Area.BROKER, "it answers", ms=12.3),
    note(Area.TOPIC, "it is small", "make it larger"),
    problem(Area.MLFLOW, "it is away", "bring it back"),
]


def test_only_problems_make_it_unhealthy() -> None:
    assert healthy(FOUND[:2])
    assert not healthy(FOUND)
    assert healthy([])


def test_passwords_and_secrets_are_masked() -> None:
    finding = problem(
        Area.MLFLOW,
        "postgresql://ann:pa55@db/mlflow refuses, and so does http://:tok@host; s3cret!",
        "not s3cret! but postgresql+psycopg://ann:other@db",
    )
    masked = mask(finding, ["s3cret!", None])
    said = f"{masked.text} {masked.remedy}"
    for secret in ("pa55", "tok@", "s3cret!", "other"):
        assert secret not in said
    assert "postgresql://ann:***@db/mlflow" in masked.text


def test_text_has_a_line_for_each_and_the_remedy_below() -> None:
    assert as_text(FOUND, colour=False).splitlines() == [
        "✓ broker  it answers (12 ms)",
        "! topic   it is small",
        "          → make it larger",
        "✗ mlflow  it is away",
        "          → bring it back",
        "",
        "1 thing is wrong.",
    ]


def test_text_says_when_all_is_well() -> None:
    assert as_text(FOUND[:1], colour=True).endswith("\n\nAll is well.\n")
    assert "\x1b[32m✓\x1b[0m" in as_text(FOUND[:1], colour=True)


def test_json_is_for_machines() -> None:
    content = json.loads(as_json(FOUND))
    assert content["healthy"] is False
    assert content["findings"][1] == {
        "area": "topic",
        "level": "note",
        "text": "it is small",
        "remedy": "make it larger",
        "ms": None,
    }
