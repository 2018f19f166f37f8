"""Assessments that this process has sent lately: MLflow may not have them yet."""

import copy
import time
from collections import OrderedDict
from typing import Final

from mlflow.entities import Assessment

__all__ = ["forget", "recalled", "remember"]

_KEPT_MAX: Final = 1_000
_KEPT_S: Final = 60.0
"""Afterwards MLflow has it, or the worker's dead letters have, and others may have changed it."""

_kept: Final[OrderedDict[str, tuple[float, Assessment]]] = OrderedDict()


def remember(assessment: Assessment) -> None:
    """It has been handed over, under the id that it has now."""
    if assessment.assessment_id is None:
        return
    overridden = _kept.get(assessment.overrides or "")
    if overridden is not None:
        overridden[1].valid = False
    _kept[assessment.assessment_id] = (time.monotonic(), copy.deepcopy(assessment))
    while len(_kept) > _KEPT_MAX:
        try:
            _kept.popitem(last=False)
        except KeyError:  # another thread was faster
            break


def recalled(trace_id: str, assessment_id: str) -> Assessment | None:
    """A copy of it, as it was sent; None where it was not, or not lately."""
    sent_s, assessment = _kept.get(assessment_id, (0.0, None))
    if assessment is None or assessment.trace_id != trace_id:
        return None
    return copy.deepcopy(assessment) if time.monotonic() - sent_s < _KEPT_S else None


def forget(assessment_id: str) -> None:
    """It is going to be changed in MLflow."""
    _kept.pop(assessment_id, None)
