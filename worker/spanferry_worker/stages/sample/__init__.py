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
from spanferry_worker.stages.sample.index import (
    Index,
    Known,
    decode_decisions,
    encode_decisions,
    entries,
)
from spanferry_worker.stages.sample.policy import SamplingPolicy, default_rules
from spanferry_worker.stages.sample.randomness import Randomness
from spanferry_worker.stages.sample.rules import Action, Otherwise, Rule
from spanferry_worker.stages.sample.sampled import (
    ASKED_MARKS,
    Sampled,
    located,
    read_sampled,
)
from spanferry_worker.stages.sample.sampler import LIVE, SHADOW, Kept, Sampler
from spanferry_worker.stages.sample.traits import Traits

__all__ = [
    "ASKED_MARKS",
    "LIVE",
    "MARKS",
    "NO_TABLE",
    "SHADOW",
    "Action",
    "Decision",
    "DecisionReason",
    "FleetEvent",
    "FleetState",
    "Index",
    "Kept",
    "Known",
    "Otherwise",
    "Outcome",
    "Randomness",
    "Report",
    "Rule",
    "Sampled",
    "Sampler",
    "SamplingPolicy",
    "SlowLimits",
    "Table",
    "Traits",
    "bucket_of",
    "decode_decisions",
    "decode_event",
    "default_rules",
    "encode_decisions",
    "encode_event",
    "entries",
    "event_key",
    "located",
    "marks",
    "read_outcome",
    "read_sampled",
    "restored",
]
