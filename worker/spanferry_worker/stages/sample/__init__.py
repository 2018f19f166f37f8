"""sample: what is kept of a trace, by its size. Pure functions, so that a replay decides the same."""

from spanferry_worker.stages.sample.decision import (
    MARKS,
    Decision,
    DecisionReason,
    Outcome,
    marks,
    read_outcome,
    restored,
)
from spanferry_worker.stages.sample.fleet import (
    NO_TABLE,
    FleetEvent,
    FleetState,
    Report,
    SlowLimits,
    Table,
    bucket_of,
    decode_event,
    encode_event,
    event_key,
)
from spanferry_worker.stages.sample.policy import SamplingPolicy, default_rules
from spanferry_worker.stages.sample.randomness import Randomness
from spanferry_worker.stages.sample.rules import Action, Otherwise, Rule
from spanferry_worker.stages.sample.sampler import LIVE, SHADOW, Kept, Sampler
from spanferry_worker.stages.sample.traits import Traits

__all__ = [
    "LIVE",
    "MARKS",
    "NO_TABLE",
    "SHADOW",
    "Action",
    "Decision",
    "DecisionReason",
    "FleetEvent",
    "FleetState",
    "Kept",
    "Otherwise",
    "Outcome",
    "Randomness",
    "Report",
    "Rule",
    "Sampler",
    "SamplingPolicy",
    "SlowLimits",
    "Table",
    "Traits",
    "bucket_of",
    "decode_event",
    "default_rules",
    "encode_event",
    "event_key",
    "marks",
    "read_outcome",
    "restored",
]
