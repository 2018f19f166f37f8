"""What a demo run came to."""

from msgspec import Struct

from spanferry_worker.dev.account import Balance, Cost

__all__ = ["Outcome"]


class Outcome(Struct, frozen=True):
    """All that the summary says. `arrival_s` is from the traffic's end to the last trace in MLflow."""

    balance: Balance
    costs: list[Cost]
    dropped: int
    dead_letters: int
    traffic_s: float
    arrival_s: float
