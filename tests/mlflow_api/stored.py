"""What a run has left in MLflow, read through MLflow's own API."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Trace
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

__all__ = ["ATTACHMENT", "StoredTrace", "read_traces", "whole_traces"]

PAGE = 500
ATTACHMENT = re.compile(r"mlflow-attachment://([0-9a-f-]{36})")


class StoredTrace(NamedTuple):
    """One trace and where it was found."""

    experiment: str
    """The name's end: empty for the program's own experiment."""
    experiment_id: str
    artifacts: str
    """Where the experiment keeps its traces' files."""
    trace: Trace
    attachments: dict[str, bytes | str]
    """By their ids: a file's content, or a text that says why it is not there."""
    prompts: list[str]
    """Prompt versions under which a search finds it."""


def experiments_of(client: MlflowClient, prefix: str) -> Iterator[Any]:
    token: str | None = None
    while True:
        page = client.search_experiments(
            filter_string=f"name LIKE '{prefix}-%'", max_results=PAGE, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def search(client: MlflowClient, locations: list[str], **more: Any) -> Iterator[Trace]:
    """Every trace of some experiments."""
    token: str | None = None
    while locations:
        page = client.search_traces(locations=locations, max_results=PAGE, page_token=token, **more)
        yield from page
        token = page.token
        if not token:
            return


def whole_traces(uri: str, prefix: str) -> tuple[int, int]:
    """How many traces of a run are listed, and how many of them with all of their spans."""
    client = MlflowClient(uri)
    ids = [experiment.experiment_id for experiment in experiments_of(client, prefix)]
    listed = list(search(client, ids, include_spans=False))
    return len(listed), len(list(search(client, ids)))


def read_traces(uri: str, prefix: str) -> dict[str, list[StoredTrace]]:
    """By program. What a search shows must be what `get_trace` gives of a program's first trace."""
    mlflow.set_tracking_uri(uri)  # where artifacts are looked for
    client = MlflowClient(uri)
    found: dict[str, list[StoredTrace]] = defaultdict(list)
    by_id = {one.experiment_id: one for one in experiments_of(client, prefix)}
    for trace in search(client, list(by_id)):
        experiment = by_id[trace.info.experiment_id]
        _, program, *suffix = experiment.name.split("-")
        if program not in found:
            same = client.get_trace(trace.info.trace_id, display=False)
            assert plain(same) == plain(trace), "search_traces and get_trace differ"
        found[program].append(
            StoredTrace(
                "-".join(suffix),
                experiment.experiment_id,
                experiment.artifact_location,
                trace,
                attachments_of(client, trace),
                prompts_of(client, trace),
            )
        )
    return found


def plain(trace: Trace) -> dict[str, Any]:
    """Without the order in which a store lists things."""
    whole = trace.to_dict()
    whole["info"].get("assessments", []).sort(key=lambda one: one["assessment_id"])
    whole["data"]["spans"].sort(key=lambda one: one["span_id"])
    return whole


def attachments_of(client: MlflowClient, trace: Trace) -> dict[str, bytes | str]:
    """The files to which its spans point."""
    text = json.dumps([span.to_dict()["attributes"] for span in trace.data.spans])
    found: dict[str, bytes | str] = {}
    for name in set(ATTACHMENT.findall(text)):
        location = trace.info.tags["mlflow.artifactLocation"]
        repository = get_artifact_repository(location, tracking_uri=client.tracking_uri)
        try:
            found[name] = repository.download_trace_attachment(name)
        except Exception as error:
            found[name] = type(error).__name__
    return found


def prompts_of(client: MlflowClient, trace: Trace) -> list[str]:
    """Of the prompts that its tag names, those under which it is found."""
    named = json.loads(trace.info.tags.get("mlflow.linkedPrompts", "[]"))
    found: list[str] = []
    for prompt in named:
        version = f"{prompt['name']}/{prompt['version']}"
        hits = search(
            client,
            [trace.info.experiment_id],
            filter_string=f"prompt = '{version}'",
            include_spans=False,
        )
        if any(hit.info.trace_id == trace.info.trace_id for hit in hits):
            found.append(version)
    return found
