"""Every limit of the wire, in one place, with its unit in its name and its reason beside it."""

from typing import Final

TRACE_ID_BYTES: Final = 16
"""OpenTelemetry's trace id; also the record key."""

SPAN_ID_BYTES: Final = 8
"""OpenTelemetry's span id."""

PRODUCER_ID_BYTES: Final = 8
"""Random, new for every process (and for every fork), so that a sequence belongs to one writer."""

CHUNK_GROUP_ID_BYTES: Final = 8
"""Random, new for every value that is cut into chunks."""

RECORD_BYTES_MAX: Final = 900_000
"""Default ceiling of one record's value. Kafka's own default for a whole batch is 1,048,588."""

RECORD_BYTES_FLOOR: Final = 8_192
"""The smallest `record_bytes_max` a producer may use: below it the envelope outweighs the payload."""

CHUNK_ENVELOPE_BYTES: Final = 128
"""Upper bound of what a Chunk adds around its data."""

CHUNKS_MAX: Final = 65_536
"""Chunks of one value; more is rejected as malformed before anything is allocated."""

VALUE_BYTES_MAX: Final = 256 * 1024 * 1024
"""Ceiling of a value put together from chunks; a claim above it is rejected unread."""

CHUNK_NESTING_MAX: Final = 4
"""A chunk may hold a chunk (a producer that learns late of a smaller topic limit cuts again)."""

assert RECORD_BYTES_FLOOR > 2 * CHUNK_ENVELOPE_BYTES
assert RECORD_BYTES_MAX > RECORD_BYTES_FLOOR
assert CHUNKS_MAX * (RECORD_BYTES_FLOOR - CHUNK_ENVELOPE_BYTES) >= VALUE_BYTES_MAX
