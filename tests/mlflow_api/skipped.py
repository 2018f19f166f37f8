"""Programs that cannot run with a version of MLflow, or with what is installed beside it."""

__all__ = ["SKIPPED"]

_NEEDS_3_18 = {"session_by_levels": "needs mlflow 3.18"}
SKIPPED: dict[str, dict[str, str]] = {
    "3.13.0": {
        "decorator_links": "needs mlflow 3.15",
        "decorator_description": "needs mlflow 3.17.2",
        "start_span_level_and_links": "needs mlflow 3.15",
        "start_span_description": "needs mlflow 3.17.2",
        "no_context_level_links_description": "needs mlflow 3.17.2",
        "client_trace_of_a_run": "needs mlflow 3.14",
        "run_by_id": "needs mlflow 3.14",
        "otel_alone": "needs mlflow 3.15",
        "otel_under_mlflow": "needs mlflow 3.15",
        "mlflow_under_otel": "needs mlflow 3.15",
        "otel_in_the_mlflow_context": "needs mlflow 3.15",
        "otel_in_words_of_genai": "needs mlflow 3.15",
        "pydantic_ai_agent": "needs pydantic_ai",
        **_NEEDS_3_18,
    },
    "3.17.2": _NEEDS_3_18,
    "3.18.0": {},
}
"""By version."""
