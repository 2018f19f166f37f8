"""Raw rows of MLflow's trace tables, by trace: two places that hold the same traces hold the same rows."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from mlflow.store.tracking.dbmodels.models import SqlExperiment
from mlflow.utils.mlflow_tags import MLFLOW_ARTIFACT_LOCATION

from tests.mlflow_api.comparison import Difference
from tests.sinks.stores import dump

__all__ = ["SERVED_OTHERWISE", "Rows", "read_rows", "rows_of_experiments", "why_served_otherwise"]

Rows = dict[str, dict[str, dict[str, Any]]]
"""By trace and table: its own row, or its rows by what tells them apart."""

OF_THE_STORE: Final = {
    "db_payload_generation",  # counts the writes
    "last_updated_timestamp",
    "association_id",  # made by the store, as is the time of a link
    "created_time",
}
OWN: Final = {
    "trace_info": "",
    "trace_tags": "key",
    "trace_request_metadata": "key",
    "spans": "span_id",
    "assessments": "assessment_id",
    "entity_associations": "destination_id",
}

BOOLEAN: Final = {"valid", "is_numeric_value"}
JSON: Final = {"content", "assessment_metadata"}


class ServedOtherwise(NamedTuple):
    """Where a worker that writes through a server leaves other rows than one that does not."""

    why: str
    program: str
    places: str
    """A regular expression for the paths of differences."""


SERVED_OTHERWISE: Final = (
    ServedOtherwise(
        "the app changes and deletes it in the server: Kafka does not hear of it",
        "feedback_updated_and_deleted",
        "assessments/.*",
    ),
    ServedOtherwise(
        "the protocol carries 250 characters of metadata",
        "long_tags_and_metadata",
        "trace_request_metadata/long/value",
    ),
    ServedOtherwise(
        "the server cannot read it, so it becomes text",
        "values_deeper_than_the_server_reads",
        r"trace_info/[^/]*_preview|trace_request_metadata/mlflow\.trace.*|spans/.*/attributes/.*",
    ),
    ServedOtherwise(
        "the server cannot read it, so it becomes text",
        "very_large_numbers",
        "spans/.*/attributes/.*",
    ),
    ServedOtherwise(
        "the server writes numbers anew, 1e-7 as 1e-07",
        "plain_values",
        "spans/.*/attributes/.*",
    ),
)
"""Beside durations, of which the protocol rounds a millisecond."""


ROUNDED: Final = ServedOtherwise("the protocol rounds", "any", "trace_info/execution_time_ms")


def why_served_otherwise(program: str, difference: Difference) -> ServedOtherwise | None:
    """The reason why a server's row and a database's differ there; None where there is none."""
    if difference.path == ROUNDED.places:
        return ROUNDED if abs(difference.native - difference.ours) <= 1 else None
    return next(
        (
            one
            for one in SERVED_OTHERWISE
            if one.program == program and re.fullmatch(one.places, difference.path)
        ),
        None,
    )


def read_rows(uri: str) -> Rows:
    """All that are there, less what is the store's own; experiments by their names."""
    table = SqlExperiment
    engine = sa.create_engine(uri)
    with engine.connect() as connection:
        query: Any = sa.select(table.experiment_id, table.name, table.artifact_location)
        places = {number: (name, place) for number, name, place in connection.execute(query)}
    engine.dispose()
    tables = dump(uri, without=OF_THE_STORE)
    found: Rows = {row["request_id"]: {one: {} for one in OWN} for row in tables["trace_info"]}
    experiments = {row["request_id"]: row["experiment_id"] for row in tables["trace_info"]}
    for name, rows in tables.items():
        for row in rows:
            trace_id = row.get("trace_id") or row.get("request_id") or row["source_id"]
            place = places[experiments[trace_id]][1]
            own = "" if name == "trace_info" else row[OWN[name]]
            found[trace_id][name][own] = dict(_plain(row, places, place))
    return {trace_id: {**of, "trace_info": of["trace_info"][""]} for trace_id, of in found.items()}


def _plain(
    row: dict[str, Any], places: dict[int, tuple[str, str]], place: str
) -> Iterator[tuple[str, Any]]:
    """In words that hold in every store; JSON by its value, for its order."""
    for column, value in row.items():
        if column == "experiment_id":
            yield column, places[value][0]
        elif column in JSON and value:
            yield column, json.loads(value)
        elif column in BOOLEAN and value is not None:
            yield column, bool(value)
        elif column == "overrides":
            yield column, value or None
        elif column == "value" and "assessment_type" in row and value:
            yield column, json.loads(value, parse_int=float)  # of the protocol all numbers are
        elif row.get("key") == MLFLOW_ARTIFACT_LOCATION and column == "value":
            yield column, value.removeprefix(place)
        else:
            yield column, value


def rows_of_experiments(rows: Rows, prefixes: tuple[str, ...]) -> Rows:
    """Those of traces in experiments whose names begin so."""
    return {
        trace_id: tables
        for trace_id, tables in rows.items()
        if tables["trace_info"]["experiment_id"].startswith(prefixes)
    }
