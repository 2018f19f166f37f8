"""deploy/kubernetes: valid by the operators' and Kubernetes' own fields, and true to the worker."""

import argparse
import importlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from spanferry_worker import cli
from spanferry_worker.arguments import settings_from
from spanferry_worker.retention import arguments as retention
from spanferry_worker.runtime.health import Page
from spanferry_worker.runtime.lifecycle import _GRACE_S, make_parts
from spanferry_worker.runtime.pages import worker_pages
from spanferry_worker.runtime.pipeline import Pipeline
from spanferry_worker.settings import Settings, load_settings, require_for_worker
from tests.packaging.test_monitoring import KNOWN
from tests.services.promtool import NoPromtoolError, promtool

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/kubernetes"
MODELS = {
    "CronJob": "kubernetes.batch.v1",
    "Deployment": "kubernetes.apps.v1",
    "PodDisruptionBudget": "kubernetes.policy.v1",
    "PodMonitor": "prometheus_operator.v1",
    "ScaledObject": "keda.v1alpha1",
}
WORKING_ROOM_BYTES = 150e6
"""That a process takes at most beyond what it keeps to: docs/operations.md."""
"""What a process needs beside what it holds: as worker.toml says."""
UNITS = {"Mi": 2**20, "Gi": 2**30}


def manifests() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(FOLDER.rglob("*.yaml")):
        yield path, yaml.safe_load(path.read_text())


MANIFESTS = list(manifests())


def the(kind: str) -> dict[str, Any]:
    """The one object of a kind."""
    [found] = [content for _, content in MANIFESTS if content["kind"] == kind]
    return found


def pod() -> dict[str, Any]:
    return the("Deployment")["spec"]["template"]["spec"]


def container() -> dict[str, Any]:
    [one] = pod()["containers"]
    return one


def environment(*, optional: bool = False) -> dict[str, str]:
    """The container's, with or without what the secret need not have."""
    return {
        entry["name"]: "postgresql://db/mlflow"
        for entry in container()["env"]
        if optional or not entry["valueFrom"]["secretKeyRef"].get("optional")
    }


@pytest.fixture(scope="module")
def loaded() -> Settings:
    """What the container's worker would load."""
    return load_settings({}, environment(), FOLDER / "base/worker.toml")


def unknown_fields(given: Any, understood: Any, where: str = "") -> Iterator[str]:
    """What a model has not taken over, or has taken for something else."""
    if isinstance(given, dict):
        for key, value in given.items():
            if not isinstance(understood, dict) or key not in understood:
                yield f"{where}.{key}"
            else:
                yield from unknown_fields(value, understood[key], f"{where}.{key}")
    elif isinstance(given, list):
        for index, value in enumerate(given):
            yield from unknown_fields(value, understood[index], f"{where}[{index}]")
    elif given != understood:
        yield f"{where} is {given!r}, understood as {understood!r}"


def wrong(content: dict[str, Any]) -> list[str]:
    """Raises ValueError where a value is of a wrong kind or a needed one is missing."""
    kind = content["kind"]
    # Thousands of classes: only where they are needed.
    module = importlib.import_module(f"cloudcoil.models.{MODELS[kind]}")
    model = getattr(module, kind).model_validate(content)
    understood = model.model_dump(by_alias=True, exclude_unset=True, mode="json")
    return list(unknown_fields(content, understood))


@pytest.mark.parametrize("kind", MODELS)
def test_objects_have_the_fields_that_their_kind_has(kind: str) -> None:
    assert wrong(the(kind)) == []


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("Deployment", "minReadySeconds: 30", "minReadySeconds: soon"),
        ("Deployment", "terminationGracePeriodSeconds", "terminationGraceSeconds"),
        ("Deployment", "failureThreshold: 40", "failuresMax: 40"),
        ("PodDisruptionBudget", "unhealthyPodEvictionPolicy", "unhealthyPolicy"),
        ("PodMonitor", "podMetricsEndpoints", "endpoints"),
        ("ScaledObject", "stabilizationWindowSeconds: 900", "window: 900"),
        ("ScaledObject", 'threshold: "60"', "threshold: 60"),
        ("ScaledObject", "scaleTargetRef", "target"),
        ("CronJob", "concurrencyPolicy: Forbid", "concurrency: Forbid"),
        ("CronJob", "activeDeadlineSeconds: 14400", "activeDeadlineSeconds: morning"),
    ],
)
def test_what_is_wrong_is_found(kind: str, old: str, new: str) -> None:
    [path] = [path for path, content in MANIFESTS if content["kind"] == kind]
    text = path.read_text()
    assert old in text
    try:
        assert wrong(yaml.safe_load(text.replace(old, new)))
    except ValueError:
        return


def test_kustomizations_name_every_file_and_only_what_exists() -> None:
    named: set[Path] = set()
    for path, content in MANIFESTS:
        if path.name != "kustomization.yaml":
            continue
        assert content["kind"] in {"Kustomization", "Component"}
        entries = [*content.get("resources", []), *content.get("components", [])]
        for generator in content.get("configMapGenerator", []):
            entries += generator["files"]
        for entry in entries:
            found = (path.parent / entry).resolve()
            assert found.exists(), found
            named.add(found / "kustomization.yaml" if found.is_dir() else found)
    files = {path for path in FOLDER.rglob("*") if path.is_file()}
    tops = {"complete/kustomization.yaml", "retention/kustomization.yaml"}
    assert files - named == {FOLDER / top for top in tops}


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("base", ["ConfigMap", "Deployment", "PodDisruptionBudget"]),
        (
            "complete",
            ["ConfigMap", "Deployment", "PodDisruptionBudget", "PodMonitor", "ScaledObject"],
        ),
    ],
)
def test_kustomize_builds_it(name: str, kinds: list[str]) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not here")
    built = subprocess.run(
        [kubectl, "kustomize", str(FOLDER / name)], capture_output=True, text=True, check=True
    )
    objects = {one["kind"]: one for one in yaml.safe_load_all(built.stdout)}
    assert sorted(objects) == kinds
    deployment = objects["Deployment"]
    [volume] = [v for v in deployment["spec"]["template"]["spec"]["volumes"] if "configMap" in v]
    assert volume["configMap"]["name"] == objects["ConfigMap"]["metadata"]["name"]
    # What KEDA decides no apply sets back.
    assert ("replicas" in deployment["spec"]) == (name == "base")


def test_the_settings_are_those_of_a_worker(loaded: Settings) -> None:
    require_for_worker(loaded)
    assert loaded.health.host == "0.0.0.0"
    assert container()["ports"] == [{"name": "health", "containerPort": loaded.health.port}]
    annotations = the("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(loaded.health.port)
    assert loaded.process.log_format == "json"
    # See deployment.yaml: names that are new each time are no static membership.
    assert loaded.kafka.group_instance_id is None


def test_the_settings_with_all_that_is_commented_out(tmp_path: Path) -> None:
    text = (FOLDER / "base/worker.toml").read_text()
    lines = [line.removeprefix("# ") if " = " in line else line for line in text.splitlines()]
    (tmp_path / "worker.toml").write_text("\n".join(lines))
    both = load_settings({}, environment(optional=True), tmp_path / "worker.toml")
    assert both.kafka.security_protocol == "SASL_SSL"
    assert both.kafka.sasl_password


def test_it_drains_before_it_is_killed(loaded: Settings) -> None:
    grace_s = pod()["terminationGracePeriodSeconds"]
    assert grace_s > loaded.process.stop_s + _GRACE_S


def test_what_it_may_hold_fits_its_memory(loaded: Settings) -> None:
    text = container()["resources"]["limits"]["memory"]
    limit = int(text[:-2]) * UNITS[text[-2:]]
    needed = loaded.memory_bytes_max + WORKING_ROOM_BYTES
    assert loaded.process.processes * needed < 0.8 * limit


@pytest.fixture
def pages(loaded: Settings) -> dict[str, Page]:
    """What this very worker serves, before it has begun."""
    parts = make_parts(loaded)
    return worker_pages(Pipeline(parts, loaded), parts.metrics, parts.clock)


async def test_probes_and_prometheus_ask_for_pages_that_are_served(pages: dict[str, Page]) -> None:
    one = container()
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert one[probe]["httpGet"]["path"] in pages
        assert one[probe]["httpGet"]["port"] == "health"
    [endpoint] = the("PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["path"] in pages
    assert endpoint["port"] == "health"
    # A restart helps nobody while Kafka is away, and this worker has not even begun.
    assert (await pages[one["livenessProbe"]["httpGet"]["path"]]()).status == 200
    assert (await pages[one["readinessProbe"]["httpGet"]["path"]]()).status == 503


def test_the_image_has_the_command_the_user_and_the_folders(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert 'ENTRYPOINT ["spanferry"]' in lines
    user = pod()["securityContext"]["runAsUser"]
    assert f"USER {user}" in lines
    assert any(f"useradd --uid {user}" in line for line in lines)
    mounted = {mount["mountPath"] for mount in container()["volumeMounts"]}
    assert "WORKDIR /home/spanferry" in lines
    assert {"/home/spanferry", "/tmp"} < mounted
    config = Path(container()["args"][1].partition("=")[2])
    assert str(config.parent) in mounted
    assert config.name == "worker.toml"
    with pytest.raises(SystemExit) as stopped:
        cli.main([container()["args"][0], "--help"])
    assert stopped.value.code == 0


def test_no_service_sets_variables_that_look_like_settings() -> None:
    assert pod()["enableServiceLinks"] is False


def test_everything_selects_the_workers_pods() -> None:
    labels = the("Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        the(kind)["spec"]["selector"]
        for kind in ("Deployment", "PodDisruptionBudget", "PodMonitor")
    ]
    selectors += [one["labelSelector"] for one in pod()["topologySpreadConstraints"]]
    for selector in selectors:
        assert selector["matchLabels"].items() <= labels.items()
    target = the("ScaledObject")["spec"]["scaleTargetRef"]["name"]
    assert target == the("Deployment")["metadata"]["name"]


def test_secrets_are_named_in_the_instructions() -> None:
    text = (FOLDER / "base/kustomization.yaml").read_text()
    for entry in container()["env"]:
        assert f"--from-literal={entry['valueFrom']['secretKeyRef']['key']}=" in text


def test_retention_runs_with_the_workers_settings_and_asks_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = the("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    [one] = spec["containers"]
    command, config, *words = one["args"]
    parser = argparse.ArgumentParser()
    retention.add_arguments(parser)
    args = parser.parse_args([*words, f"--config={FOLDER / 'base/worker.toml'}"])
    assert command == "retention"
    assert config == container()["args"][1]
    assert args.yes
    assert args.older_than < time.time_ns() // 1_000_000 - 30 * 86_400_000
    [variable] = one["env"]
    assert variable == container()["env"][0]
    monkeypatch.setenv(variable["name"], "postgresql://db/mlflow")
    assert settings_from(args, os.environ).mlflow.tracking_uri == "postgresql://db/mlflow"
    for field in ("securityContext", "enableServiceLinks", "automountServiceAccountToken"):
        assert spec[field] == pod()[field]
    assert spec["volumes"] == pod()["volumes"]
    for field in ("image", "securityContext", "volumeMounts"):
        assert one[field] == container()[field]
    # No selector of the workers finds it.
    labels = the("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    assert not the("Deployment")["spec"]["selector"]["matchLabels"].items() <= labels.items()


def lag_query() -> str:
    [trigger] = [one for one in the("ScaledObject")["spec"]["triggers"] if one["name"] == "lag"]
    assert f"vector({trigger['metadata']['threshold']})" in trigger["metadata"]["query"]
    return trigger["metadata"]["query"]


def test_scaling_asks_for_metrics_that_exist() -> None:
    query = lag_query()
    promql_parser.parse(query)
    assert set(re.findall(r"spanferry_\w+", query)) <= KNOWN.keys()
    spec = the("ScaledObject")["spec"]
    assert the("Deployment")["spec"]["replicas"] == spec["minReplicaCount"]
    assert "cpu" in container()["resources"]["requests"]  # or utilization means nothing


def test_scaling_follows_the_lag_but_not_a_store_that_is_away(tmp_path: Path) -> None:
    try:
        program = promtool()
    except NoPromtoolError as error:
        pytest.skip(str(error))
    lag = [
        {"series": f'spanferry_consume_lag_seconds{{instance="{name}"}}', "values": value}
        for name, value in (("a", "240x5"), ("b", "10x5"))
    ]

    def case(failing: str, series: list[dict[str, str]], value: int) -> dict[str, Any]:
        store = {"series": 'spanferry_write_failing_seconds{instance="a"}', "values": failing}
        expected = {
            "expr": lag_query(),
            "eval_time": "3m",
            "exp_samples": [{"labels": "{}", "value": value}],
        }
        return {"interval": "1m", "input_series": [*series, store], "promql_expr_test": [expected]}

    cases = [case("0x5", lag, 240), case("90x5", lag, 60), case("0x5", [], 60)]
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [], "tests": cases}))
    ended = subprocess.run(
        [program, "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
