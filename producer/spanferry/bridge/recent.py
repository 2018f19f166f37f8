"""Assessments that this process has sent lately: MLflow may not have them yet."""

import copy
import time
from collections import OrderedDict
from typing import Final, NamedTuple

from mlflow.entities import Assessment

__all__ = ["forget", "recalled", "remember"]

_KEPT_MAX: Final = 1_000
_KEPT_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of more the oldest are asked of MLflow."""

_KEPT_S: Final = 60.0
"""Afterwards MLflow has it, or the worker's dead letters have, and others may have changed it."""


class _Kept(NamedTuple):
    sent_s: float
    assessment: Assessment
    size: int


class _Lately(OrderedDict[str, _Kept]):
    """By assessment id, the oldest first."""

    bytes = 0
    """About what they take; where threads send at once an update may be lost."""


_kept: Final = _Lately()


def remember(assessment: Assessment, size: int) -> None:
    """It has been handed over, under the id that it has now, as about `size` bytes."""
    if assessment.assessment_id is None:
        return
    overridden = _kept.get(assessment.overrides or "")
    if overridden is not None:
        overridden.assessment.valid = False
    forget(assessment.assessment_id)  # sent again it is the newest
    _kept[assessment.assessment_id] = _Kept(time.monotonic(), copy.deepcopy(assessment), size)
    _kept.bytes += size
    while len(_kept) > _KEPT_MAX or _kept.bytes > _KEPT_BYTES_MAX:
        try:
            _kept.bytes -= _kept.popitem(last=False)[1].size
        except KeyError:  # another thread was faster
            _kept.bytes = 0
            break


def recalled(trace_id: str, assessment_id: str) -> Assessment | None:
    """A copy of it, as it was sent; None where it was not, or not lately."""
    kept = _kept.get(assessment_id)
    if kept is None or kept.assessment.trace_id != trace_id:
        return None
    return copy.deepcopy(kept.assessment) if time.monotonic() - kept.sent_s < _KEPT_S else None


def forget(assessment_id: str) -> None:
    """It is going to be changed in MLflow."""
    kept = _kept.pop(assessment_id, None)
    if kept is not None:
        _kept.bytes -= kept.size
