"""Errors by what to do next. Foreign exceptions are mapped to these where they enter.

Bad input that is expected (a record that does not decode, a trace that MLflow refuses) is a value,
not an exception, wherever a stage can return it.
"""

from collections.abc import Mapping


class WorkerError(Exception):
    """Base of what the worker raises itself."""


class TransientError(WorkerError):
    """May work later: retry with backoff while intake waits. The broker or MLflow is away or busy.

    `retry_after_s`: not before so many seconds have passed, where the other side has said so.
    """

    def __init__(self, message: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PoisonError(WorkerError):
    """Will never work: something in this batch is refused. Bisect the batch, dead-letter the trace."""


class PartlyRefusedError(PoisonError):
    """Some traces of a batch are refused, all others of it are stored.

    `refused`: the error of each refused one, by its place in the batch.
    """

    def __init__(self, refused: Mapping[int, PoisonError]) -> None:
        first = next(iter(refused.values()))
        more = f" (and {len(refused) - 1} more of this batch)" if len(refused) > 1 else ""
        super().__init__(f"{first}{more}")
        self.refused = dict(refused)


class TraceNotFoundError(PoisonError):
    """What came belongs to a trace that MLflow does not have (yet): a later try may find it.

    Raised for feedback and tags only, never for spans. The runtime tries again for a while
    (`write.absent_s`) before it dead-letters the record.
    """


class NoExperimentError(PoisonError):
    """The trace names an experiment that is not there: its app's mistake, not this worker's.

    `experiment` is what it names. One app's wrong setting must not stop the traces of the others, so
    the breaker counts every such name once only.
    """

    def __init__(self, experiment: str, message: str) -> None:
        super().__init__(message)
        self.experiment = experiment


class FatalError(WorkerError):
    """Cannot go on at all: stop with exit code 3. The message says what to do."""


class SettingsError(FatalError):
    """A setting is missing or wrong. The message names the key, where it came from and the remedy."""
