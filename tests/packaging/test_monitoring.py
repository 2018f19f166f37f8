"""Dashboard and alerts name only metrics that exist, in PromQL, and the alerts fire when they should."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import Counter, Histogram

from deploy.grafana import generate
from spanferry.metrics.rows import ROWS as APP_ROWS
from spanferry_worker.services.metrics import Metrics, SupervisorMetrics
from tests.services.promtool import NoPromtoolError, promtool

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus/alerts.yaml"
LABELS_OF_A_SCRAPE = {"job", "instance", "process"}


def made_of(metrics: object) -> Iterator[Any]:
    """Every metric in it, and in the groups that it has of them."""
    for one in vars(metrics).values():
        if hasattr(one, "_labelnames"):
            yield one
        elif type(one).__name__.endswith("Metrics"):
            yield from made_of(one)


def known() -> dict[str, set[str]]:
    """Every name that a page can have, with its labels."""
    found: dict[str, set[str]] = {}
    for metric in (*made_of(Metrics()), *made_of(SupervisorMetrics())):
        labels = set(metric._labelnames)
        if isinstance(metric, Counter):
            found[f"{metric._name}_total"] = labels
        elif isinstance(metric, Histogram):
            for suffix in ("_bucket", "_sum", "_count"):
                found[f"{metric._name}{suffix}"] = labels | {"le"}
        else:
            found[metric._name] = labels
    for family in Metrics().registry.collect():
        if family.name.startswith("process_"):
            found |= {sample.name: set(sample.labels) for sample in family.samples}
    return found | {row.prometheus_name: {row.label} for row in APP_ROWS}


KNOWN = known()


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    content = json.loads(generate.FILE.read_text())
    return [panel for panel in content["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            expr = target["expr"].replace("$__rate_interval", "5m")
            yield f"{panel['title']} {target['refId']}", re.sub(r"\$\w+", ".*", expr)
    for one in json.loads(generate.FILE.read_text())["templating"]["list"]:
        if one["type"] == "query":
            yield one["name"], one["definition"].removeprefix("label_values(").rpartition(",")[0]


QUERIES = list(queries())


@pytest.mark.parametrize(("name", "expr"), QUERIES, ids=[name for name, _ in QUERIES])
def test_every_query_is_promql_of_metrics_that_exist(name: str, expr: str) -> None:
    promql_parser.parse(re.sub(r"\$\w+", ".*", expr))
    metrics = {found[0] for found in re.finditer(r"\b(spanferry|process)_\w+\b", expr)}
    assert metrics
    assert metrics <= KNOWN.keys(), metrics - KNOWN.keys()
    labels = {label for metric in metrics for label in KNOWN[metric]} | LABELS_OF_A_SCRAPE
    for names in re.findall(r"\b(?:by|on) \(([^)]*)\)", expr):
        assert {one.strip() for one in names.split(",")} <= labels
    assert set(re.findall(r"(\w+)=~?\"", expr)) <= labels


def test_the_parser_tells_promql_from_what_is_none() -> None:
    with pytest.raises(ValueError):
        promql_parser.parse("sum by (job (up)")


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_legends_name_labels_that_are_left(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        grouped = re.match(r"(?:sum|max|count)(?: by \(([^)]*)\))? \(", target["expr"])
        left = LABELS_OF_A_SCRAPE
        if grouped:
            left = set(re.split(r",\s*", grouped[1])) if grouped[1] else set()
        assert wanted <= left, target["expr"]


def test_the_dashboard_is_current_and_whole() -> None:
    assert generate.FILE.read_text() == generate.text(), "run: python deploy/grafana/generate.py"
    content = generate.dashboard()
    rows = [panel["title"] for panel in content["panels"] if panel["type"] == "row"]
    assert rows == [
        "Intake",
        "Lag",
        "Assembly",
        "Sampling",
        "Store",
        "Dead letters",
        "Ledger",
        "App side",
        "Processes",
    ]
    numbers = [panel["id"] for panel in content["panels"]]
    assert len(set(numbers)) == len(numbers)


def shown(panel: dict[str, Any]) -> set[str]:
    """The metrics of a panel; a histogram by its own name."""
    text = " ".join(target["expr"] for target in panel["targets"])
    return {
        re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bspanferry_\w+\b", text)
    }


def test_what_is_to_be_watched_is_on_a_panel() -> None:
    on_panels = set[str]().union(*map(shown, panels()))
    _, _, rest = (ROOT / "docs/operations.md").read_text().partition("\n## What to watch\n")
    rows = [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    names = {
        name
        for row in rows[1:]
        for name in re.findall(r"`(\w+)[^`]*`", row.split(" | ")[0])
        if name != "spanferry"  # spanferry.stats()
    }
    assert len(names) > 15
    assert names <= KNOWN.keys(), "a table of metrics, each with its whole name"
    assert names <= on_panels, names - on_panels


def test_the_ledgers_row_can_show_the_equation_and_what_breaks_it() -> None:
    content = generate.dashboard()["panels"]
    titles = [panel["title"] for panel in content]
    row = titles.index("Ledger")
    end = next(n for n in range(row + 1, len(content)) if content[n]["type"] == "row")
    metrics = set[str]().union(*map(shown, content[row + 1 : end]))
    assert metrics == {name for name in KNOWN if name.startswith("spanferry_ledger_")} - {
        "spanferry_ledger_producers"
    }


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(generate.FILE.read_text())["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken
        taken |= cells


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    document = (ROOT / "docs/operations.md").read_text()
    found = alerts()
    assert len({rule["alert"] for rule in found}) == len(found)
    for rule in found:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]
        anchor = rule["alert"].lower()
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{anchor}"
        assert f"\n### {rule['alert']}\n" in document
    headings = set(re.findall(r"^### (Spanferry\w+)$", document, re.MULTILINE))
    assert headings == {rule["alert"] for rule in found}


def judge(folder: Path) -> subprocess.CompletedProcess[str]:
    try:
        program = promtool()
    except NoPromtoolError as error:
        pytest.skip(str(error))
    return subprocess.run(
        [program, "test", "rules", str(folder / "alerts_test.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    ended = judge(ALERTS.parent)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    tests = yaml.safe_load((ALERTS.parent / "alerts_test.yaml").read_text())["tests"]
    fired, silent = set(), set()
    for check in (one for test in tests for one in test["alert_rule_test"]):
        (fired if check["exp_alerts"] else silent).add(check["alertname"])
    names = {rule["alert"] for rule in alerts()}
    assert fired == silent == names


def test_the_judge_sees_a_rule_that_was_broken(tmp_path: Path) -> None:
    for name in ("alerts.yaml", "alerts_test.yaml"):
        shutil.copy(ALERTS.parent / name, tmp_path)
    text = ALERTS.read_text()
    (tmp_path / "alerts.yaml").write_text(text.replace("> 0.9\n        for", "> 0.99\n        for"))
    ended = judge(tmp_path)
    assert ended.returncode == 1
    assert "SpanferryMemoryNearLimit" in ended.stdout + ended.stderr
