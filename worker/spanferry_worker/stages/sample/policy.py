"""What is kept of which traces: rules in order, and what they share."""

from typing import Final

from msgspec import Struct

from spanferry_worker.stages.sample.randomness import Randomness
from spanferry_worker.stages.sample.rules import Action, Rule, never_matching

__all__ = ["TARGET_BYTES", "SamplingPolicy", "default_rules"]

TARGET_BYTES: Final = 100_000


class SamplingPolicy(Struct, frozen=True, kw_only=True):
    """The rules and what they share. By default no trace is lost: big ones may lose their payloads."""

    target_bytes: int = TARGET_BYTES
    """Without `rules`: traces up to this many record bytes are stored whole, larger ones with the
    probability `target_bytes` / size, else as skeletons; whole in any case are errors, slow traces
    and those with feedback. 0: everything is stored whole."""
    rules: list[Rule] | None = None
    """The rules, in order: the first that matches decides; without a match a trace is stored whole.
    In a TOML file each is a table `[[sample.rules]]`; see [sampling](sampling.md). An empty list
    stores everything whole."""
    budget_bytes_s: int | None = None
    """For rules with `action = "budget"`: bytes a second that the whole fleet stores, all that other
    rules keep included."""
    salt: str = "spanferry"
    """Makes the choice independent of everything else that hashes ids. All workers need the same."""
    randomness: Randomness = Randomness.HASH
    """What chance is: `hash` of session id or its outermost level (else trace id) and `salt`; `otel`:
    OpenTelemetry's, `rv` of the tracestate, else the last 56 bits of the trace id, so that what other
    samplers keep is kept here, too."""
    attribute_bytes_max: int = 1_024
    """In a skeleton, the longest attribute that stays whole; longer ones become previews of this."""
    events_bytes_max: int = 8_192
    """In a skeleton, the most that the events of one span may have together."""

    def __post_init__(self) -> None:
        if self.target_bytes < 0:
            raise ValueError("target_bytes must be at least 1, or 0 to store everything whole")
        if self.attribute_bytes_max < 64:
            raise ValueError(
                "attribute_bytes_max must be at least 64, so that a preview says something"
            )
        if self.events_bytes_max < 0:
            raise ValueError("events_bytes_max must not be negative")
        if not self.salt:
            raise ValueError("salt must not be empty")
        self._check_rules()

    def _check_rules(self) -> None:
        names = [rule.name for rule in self.rules or ()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"rule {name!r}: there are two of this name")
        for name, earlier in never_matching(self.rules or ()).items():
            raise ValueError(
                f"rule {name!r} can never match: rule {earlier!r} before it takes all that it would "
                "take; put it first, or delete it"
            )
        if self.budget_bytes_s is not None and self.budget_bytes_s < 1:
            raise ValueError("budget_bytes_s must be at least 1")
        wanting = [rule.name for rule in self.rules or () if rule.action is Action.BUDGET]
        if wanting and self.budget_bytes_s is None:
            raise ValueError(f'rule {wanting[0]!r}: action = "budget" needs sample.budget_bytes_s')
        if self.budget_bytes_s is not None and not wanting:
            raise ValueError(
                'budget_bytes_s has no effect: no rule has action = "budget"; add one, for example '
                '[[sample.rules]] name = "rest" action = "budget"'
            )

    @property
    def in_force(self) -> list[Rule]:
        """The rules that count: those given, or the default ones."""
        return default_rules(self.target_bytes) if self.rules is None else self.rules

    @property
    def can_cut(self) -> bool:
        """Whether less than all may be stored of a trace."""
        return any(rule.action is not Action.KEEP for rule in self.in_force)

    @property
    def can_drop(self) -> bool:
        """Whether nothing may be stored of a trace."""
        return any(rule.can_drop for rule in self.in_force)

    @property
    def needs_fleet(self) -> bool:
        """Whether decisions depend on what the fleet has seen: a budget, or what is slow."""
        return any(rule.action is Action.BUDGET or rule.slow is not None for rule in self.in_force)


def default_rules(target_bytes: int) -> list[Rule]:
    """What holds where no rules are given; nothing at all for a target of 0."""
    if not target_bytes:
        return []
    return [
        Rule(name="errors", error=True, action=Action.KEEP),
        Rule(name="feedback", feedback=True, action=Action.KEEP),
        Rule(name="slow", slow=True, action=Action.KEEP),
        Rule(name="size", action=Action.TARGET_BYTES, target_bytes=target_bytes),
    ]
