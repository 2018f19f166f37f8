"""The one place that says where parcels go now. Written by enable/disable."""

from spanferry.finishing import FinishingCounts, finisher_of
from spanferry.parcel import Outlet
from spanferry.process import PROCESS

__all__ = ["current", "finished", "install", "installed"]

installed: Outlet | None = None
"""As `current` answers, for those who cannot afford the call. Written by `install` alone."""


def current() -> Outlet | None:
    """The outlet in force, or None while spanferry is not enabled."""
    return installed


def finished() -> FinishingCounts:
    """What was redacted and cut on the way to the outlet that was installed last."""
    return FinishingCounts() if PROCESS.finisher is None else PROCESS.finisher.counts


def install(outlet: Outlet | None) -> Outlet | None:
    """Put another outlet in force and return the one before it."""
    global installed
    if outlet is not None:
        PROCESS.finisher = finisher = finisher_of(outlet.settings)
        PROCESS.finish_above = finisher.looks_above
    before, installed = installed, outlet
    PROCESS.plain = None
    return before
