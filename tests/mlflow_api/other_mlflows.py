"""Virtual environments as apps may have them: another MLflow, libraries that it traces, spanferry."""

from pathlib import Path

from tests.services.environments import NEWEST_MLFLOW, environment, python_with_mlflow

__all__ = ["NEWEST_MLFLOW", "OLDEST_MLFLOW", "python_with"]

ROOT = Path(__file__).parents[2]
OLDEST_MLFLOW = "3.13.0"
BESIDE = ("numpy>=2,<3", "pandas>=2,<4", "orjson", "msgspec", "aiokafka[zstd]>=0.14,<0.15")
# What the oldest traces by itself: the newest that it says it works with, and what these are made of.
# Pydantic AI is not there: of the newest it finds but half of what it traces.
TRACED = (
    "openai==2.36.0",
    "anthropic==0.101.0",
    "groq==1.2.0",
    "langchain==1.3.0",
    "langchain-core==1.8.3",
    "langchain-openai==1.3.4",
    "langgraph==1.2.0",
)


def python_with(version: str) -> Path:
    """Its python; made on first use, kept between runs. Raises ServiceError, saying what it needs.

    Beside the newest is what is installed here.
    """
    if version == NEWEST_MLFLOW:
        return python_with_mlflow(version)
    packages = [f"mlflow-skinny=={version}", *BESIDE, *TRACED]
    return environment(f"mlflow-{version}", packages, ["--no-deps", "--editable", str(ROOT)])
