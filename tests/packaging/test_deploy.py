"""The examples in deploy/ and the Dockerfile name only what exists."""

import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from spanferry_worker import cli
from spanferry_worker.settings import Settings, load_settings, require_for_worker

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PORT = Settings().health.port


def compose_services() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]


def dockerfile() -> list[str]:
    return (ROOT / "Dockerfile").read_text().splitlines()


def test_the_settings_file_starts_a_worker() -> None:
    settings = load_settings({}, {}, DEPLOY / "worker.toml")
    require_for_worker(settings)
    assert settings.health.port == PORT


def test_the_settings_file_with_all_that_is_commented_out(tmp_path: Path) -> None:
    text = (DEPLOY / "worker.toml").read_text()
    lines = [line.removeprefix("# ") if " = " in line else line for line in text.splitlines()]
    (tmp_path / "worker.toml").write_text("\n".join(lines))
    settings = load_settings({}, {}, tmp_path / "worker.toml")
    assert settings.kafka.security_protocol == "SASL_SSL"


def test_compose_starts_commands_and_settings_that_exist(
    capsys: pytest.CaptureFixture[str],
) -> None:
    services = compose_services()
    for name in ("topics", "worker"):
        load_settings({}, services[name]["environment"])
        with pytest.raises(SystemExit) as stopped:
            cli.main([*services[name]["command"], "--help"])
        assert stopped.value.code == 0
    assert services["worker"]["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]
    assert set(services["worker"]["depends_on"]) <= set(services)


def test_compose_refers_to_what_it_has() -> None:
    content = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services, volumes = content["services"], content["volumes"]
    for name, service in services.items():
        assert ("build" in service) == (service["image"] == "spanferry-worker"), name
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] in {
                "service_started",
                "service_healthy",
                "service_completed_successfully",
            }
            # Nobody is ever healthy who is not asked.
            assert how["condition"] != "service_healthy" or "healthcheck" in services[other]
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in volumes or (DEPLOY / source).is_file(), volume
    assert (DEPLOY / services["worker"]["build"] / "Dockerfile").is_file()


def test_compose_names_hosts_that_are_services() -> None:
    services = compose_services()
    settings = load_settings({}, services["worker"]["environment"], DEPLOY / "worker.toml")
    require_for_worker(settings)
    hosts = {settings.kafka.bootstrap_servers, services["topics"]["environment"].popitem()[1]}
    assert {host.partition(":")[0] for host in hosts} <= set(services)
    assert urlsplit(settings.mlflow.tracking_uri).hostname in services


def test_compose_waits_longer_than_the_worker_drains() -> None:
    with (DEPLOY / "worker.toml").open("rb") as file:
        stop_s = tomllib.load(file)["process"]["stop_s"]
    assert int(compose_services()["worker"]["stop_grace_period"].removesuffix("s")) > stop_s


def test_the_image_exposes_and_checks_the_health_port() -> None:
    assert f"EXPOSE {PORT}" in dockerfile()
    assert any(f"http://127.0.0.1:{PORT}/healthz" in line for line in dockerfile())


def test_the_image_copies_all_that_the_wheel_is_built_from() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        target = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]
    folders = {name.split("/")[0] for name in [*target["packages"], *target["force-include"]]}
    assert {f"COPY {folder} {folder}" for folder in folders} <= set(dockerfile())


def test_the_image_copies_what_exists_and_docker_may_see() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sources = [line.split()[1:-1] for line in dockerfile() if line.startswith("COPY ")]
    local = [name for names in sources if not names[0].startswith("--from") for name in names]
    assert local
    for name in local:
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored
