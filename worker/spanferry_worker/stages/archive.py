"""archive: which traces keep their spans outside of MLflow's database, and where."""

from urllib.parse import urlsplit

from msgspec import Struct

__all__ = ["ArchivePolicy"]


class ArchivePolicy(Struct, frozen=True, kw_only=True):
    """Spans of large traces in an artifact store instead of MLflow's database, as MLflow archives them."""

    location: str = ""
    """Where: a URI that workers and the tracking server reach by themselves, as `s3://bucket/traces` or
    `file:///data/traces`, with the credentials of MLflow's artifact stores. Empty: nowhere, all spans stay in
    the database."""
    above_bytes: int = 1_000_000
    """A trace goes there when its size, MLflow's `mlflow.trace.sizeBytes`, is above this. Below the default
    it costs more than it saves: docs/operations.md has the figures."""

    def __post_init__(self) -> None:
        if self.above_bytes < 1:
            raise ValueError("above_bytes must be at least 1")
        if self.location and (problem := _problem(self.location)):
            raise ValueError(f"location={self.location!r} {problem}")

    @property
    def enabled(self) -> bool:
        """Whether there is a place to go to."""
        return bool(self.location)


def _problem(location: str) -> str | None:
    """What MLflow's readers could not do with it."""
    parts = urlsplit(location)
    if not parts.scheme:
        return "is no URI: write file:///data/traces for a folder"
    if parts.scheme == "mlflow-artifacts":
        return (
            "is behind an MLflow server, which MLflow's own readers of archives cannot use: name the "
            "place itself, as the server has it in --artifacts-destination"
        )
    if parts.scheme == "file" and not parts.path.startswith("/"):
        return "depends on the folder that a process runs in: write file:///data/traces"
    return None
