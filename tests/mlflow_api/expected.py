"""What the programs must have stored, whoever stores it: two runs that store nothing are equal."""

import json
from collections.abc import Iterator
from typing import Any, Final

from tests.mlflow_api.canonical import NO_FILE
from tests.mlflow_api.registry import load_programs

__all__ = [
    "LISTS",
    "OTEL_SPANS",
    "STORES_NOTHING",
    "STORES_NOTHING_ON_THE_OLDEST",
    "costs_of",
    "files_expected",
    "files_of",
    "programs_of",
    "spans_of",
    "tokens_of",
    "types_expected",
    "usage_expected",
]

Words = dict[str, Any]
"""A program's run, in canonical words."""

STORES_NOTHING: Final = {
    "what_the_decorator_leaves": "it calls nothing that is traced",
    "decorator_arguments_that_are_wrong": "they raise before a span starts",
    "generator_left_early": "MLflow's SDK waits for a span that never ends",
    "child_that_never_ends": "MLflow's SDK waits for a span that never ends",
    "client_leaves_a_span_open": "MLflow's SDK waits for a span that never ends",
    "noop_span": "tracing is off",
    "child_of_nothing": "tracing is off where the root starts",
    "added_while_off": "tracing is off",
    "update_without_a_trace": "there is none",
    "destination_of_a_child": "MLflow's SDK cannot send the trace",
}
"""Programs of which MLflow's own SDK stores no span, and why."""

STORES_NOTHING_ON_THE_OLDEST: Final = {
    "lone_surrogates": "MLflow's SDK cannot send the trace; newer ones send its spans before it",
}

OTEL_SPANS: Final = {
    "otel_alone": "OpenTelemetry's API makes them",
    "otel_under_mlflow": "OpenTelemetry's API makes one",
    "mlflow_under_otel": "OpenTelemetry's API makes one",
    "otel_in_the_mlflow_context": "OpenTelemetry's API makes one",
    "otel_in_words_of_genai": "OpenTelemetry's API makes it",
    "added_into_the_active_span": "MLflow copies the spans of the other trace",
    "added_under_a_target": "MLflow copies the spans of the other trace",
    "added_without_a_span": "MLflow copies the spans of the other trace",
    "failed_trace_added_without_a_span": "MLflow copies the spans of the other trace",
    "off_while_open": "one starts when the tracer provider is not the trace's any more",
    "experiment_set_inside_a_span": "one starts when the tracer provider is not the trace's any more",
}
"""Programs some of whose spans are none of spanferry's light ones, and why."""

MODELS: Final = {"LLM", "CHAT_MODEL"}
OTHER_TYPES: Final = {"openai_embeddings": {"EMBEDDING"}, "langchain_tool": {"TOOL"}}
"""What is called there is no model that answers."""
WITHOUT_USAGE: Final = {
    "openai_embeddings": "MLflow counts those of answers",
    "openai_error": "the model answers with an error",
    "langchain_error": "the model answers with an error",
    "langchain_tool": "no model is called",
}
USAGE: Final = {"input_tokens": 11, "output_tokens": 5, "total_tokens": 16}
"""What the fake models say of every answer."""

LISTS: Final = (
    STORES_NOTHING,
    STORES_NOTHING_ON_THE_OLDEST,
    OTEL_SPANS,
    OTHER_TYPES,
    WITHOUT_USAGE,
)
"""All whose keys are names of programs."""


def programs_of(*modules: str) -> list[str]:
    """The names of those that stand in modules whose names begin so."""
    return [
        name
        for name, one in load_programs().items()
        if one.run.__module__.rpartition(".")[2].startswith(modules)
    ]


def types_expected(program: str) -> set[str]:
    """Of an autologging program: one of its spans is of one of these types."""
    return OTHER_TYPES.get(program, MODELS)


def usage_expected(program: str) -> dict[str, int] | None:
    """Of an autologging program: what one of its spans counts, at least."""
    return None if program in WITHOUT_USAGE else USAGE


def spans_of(stored: Words) -> Iterator[Words]:
    """Those of all its traces."""
    for trace in stored["traces"].values():
        yield from trace["spans"].values()


def tokens_of(stored: Words) -> Iterator[dict[str, int]]:
    """What its spans count."""
    for span in spans_of(stored):
        if "mlflow.chat.tokenUsage" in span["attributes"]:
            yield span["attributes"]["mlflow.chat.tokenUsage"]["json"]


def costs_of(stored: Words) -> tuple[list[float], list[float]]:
    """Of its spans, and of its traces, in dollars."""
    attributes = [span["attributes"] for span in spans_of(stored)]
    metadata = [trace["info"]["trace_metadata"] for trace in stored["traces"].values()]
    return (
        [
            one["mlflow.llm.cost"]["json"]["total_cost"]
            for one in attributes
            if "mlflow.llm.cost" in one
        ],
        [
            json.loads(one["mlflow.trace.cost"])["total_cost"]
            for one in metadata
            if "mlflow.trace.cost" in one
        ],
    )


def files_expected(mode: str) -> set[str]:
    """Programs whose values hold files that become attachments."""
    of_models = {"openai_with_an_image", "anthropic_image_and_error"}
    stay = {"files_left_where_they_are"}
    if mode != "accelerated":
        stay.add("files_that_are_too_large")  # of the worker's limit they are not
    return set(programs_of("attachments")) - stay | of_models


def files_of(stored: Words) -> tuple[int, int]:
    """How often its traces name a file that is there, and one that is not."""
    text = json.dumps(stored["traces"])
    return text.count("<file "), text.count(NO_FILE)
