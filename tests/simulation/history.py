"""What has happened in a run, to be hashed and to be read."""

from hashlib import blake2b

__all__ = ["History"]


class History:
    """Lines in order: when, who, what."""

    def __init__(self) -> None:
        self._lines: list[tuple[float, str, str]] = []

    def add(self, at_s: float, who: str, what: str) -> None:
        """One thing more."""
        self._lines.append((at_s, who, what))

    def digest(self) -> str:
        """The same for the very same history only."""
        return blake2b(repr(self._lines).encode(), digest_size=16).hexdigest()

    def text(self, lines_max: int = 400) -> str:
        """For a reader: seconds, who, what; the last `lines_max` lines."""
        left_out = max(0, len(self._lines) - lines_max)
        head = [f"({left_out} lines before)"] if left_out else []
        rows = [f"{at:8.3f}  {who:<9} {what}" for at, who, what in self._lines[left_out:]]
        return "\n".join([*head, *rows])
