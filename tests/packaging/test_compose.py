"""deploy/compose.yaml by the schema of the Compose Specification, which check-jsonschema brings along.

The schema is https://github.com/compose-spec/compose-spec, schema/compose-spec.json, under Apache-2.0. It
knows every key, and which kind of value each takes; who refers to whom is in test_deploy.py.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema.validators import validator_for

FILE = Path(__file__).parents[2] / "deploy/compose.yaml"
SCHEMA: dict[str, Any] = get_builtin_schema("vendor.compose-spec")
VALIDATOR = validator_for(SCHEMA)(SCHEMA)  # what it does not know it would pass over


def wrong(text: str) -> list[str]:
    """Where the file is none that compose takes; the innermost errors of each place."""
    found: list[str] = []
    errors = list(VALIDATOR.iter_errors(yaml.safe_load(text)))
    while errors:
        error = errors.pop()
        found.append(f"{error.json_path}: {error.message}")
        errors += error.context
    return found


def test_the_file_is_one_that_compose_takes() -> None:
    assert wrong(FILE.read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("healthcheck:", "helthcheck:", "'helthcheck' was unexpected"),
        ("volumes:\n  kafka:", "volume:\n  kafka:", "'volume' does not match"),
        ("restart: unless-stopped", "restart: [always]", "restart"),
        ("stop_grace_period: 40s", "stop_grace_period: {s: 40}", "stop_grace_period"),
        ("condition: service_healthy", "condition: healthy", "service_healthy"),
        ("condition: service_healthy", "conditions: service_healthy", "depends_on"),
        ("retries: 20", "retries: [20]", "retries"),
        ("retries: 20", "attempts: 20", "'attempts' does not match"),
        ('ports: ["127.0.0.1:8790:8790"]', "ports: 8790", "8790 is not of type 'array'"),
        ("build: ..", "build: {contxt: ..}", "'contxt' does not match"),
        ("command: [", "command: [1, ", "1 is not of type 'string'"),
        ("KAFKA_NODE_ID: 1", "KAFKA_NODE_ID: [1]", "KAFKA_NODE_ID"),
        ("services:\n  kafka:", "services:\n  the kafka:", "'the kafka'"),
    ],
)
def test_what_compose_does_not_take_is_found_out(old: str, new: str, said: str) -> None:
    text = FILE.read_text()
    assert old in text
    assert said in "\n".join(wrong(text.replace(old, new)))


def test_the_schema_is_that_of_the_specification() -> None:
    assert SCHEMA["$id"] == "compose_spec.json"
    assert {"services", "volumes", "networks", "secrets", "configs"} <= set(SCHEMA["properties"])
    assert VALIDATOR.META_SCHEMA["$id"] == SCHEMA["$schema"], "read by the rules it is written in"
