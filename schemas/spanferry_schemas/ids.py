"""Trace and span ids between their bytes and the text that MLflow shows."""

from spanferry_schemas.limits import TRACE_ID_BYTES

__all__ = ["trace_id_bytes", "trace_id_text"]

_PREFIX = "tr-"


def trace_id_text(trace_id: bytes) -> str:
    """MLflow's trace id: `tr-` and 32 lower-case hexadecimal digits."""
    return _PREFIX + trace_id.hex()


def trace_id_bytes(text: str) -> bytes | None:
    """The 16 bytes of `tr-<32 hex>` or `<32 hex>`; None where the text is neither."""
    try:
        trace_id = bytes.fromhex(text.removeprefix(_PREFIX))
    except ValueError:
        return None
    return trace_id if len(trace_id) == TRACE_ID_BYTES else None
