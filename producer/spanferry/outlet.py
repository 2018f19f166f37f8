"""The one place that says where parcels go now. Read at every root span, written by enable/disable."""

from spanferry.parcel import Outlet

__all__ = ["current", "install"]

_outlet: Outlet | None = None


def current() -> Outlet | None:
    """The outlet in force, or None while spanferry is not enabled."""
    return _outlet


def install(outlet: Outlet | None) -> Outlet | None:
    """Put another outlet in force and return the one before it."""
    global _outlet
    before, _outlet = _outlet, outlet
    return before
