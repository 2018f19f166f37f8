"""The body of a request or a response, kept up to a limit, as a value to record."""

from typing import Any

from spanferry import values

__all__ = ["HttpBody"]


class HttpBody:
    """Body parts as they pass. `bytes_max` 0 keeps nothing."""

    __slots__ = ("_bytes_all", "_bytes_kept", "bytes_max", "content_type", "parts")

    def __init__(self, bytes_max: int, content_type: str) -> None:
        self.bytes_max = bytes_max
        self.content_type = content_type
        self.parts: list[bytes] = []
        self._bytes_kept = 0
        self._bytes_all = 0

    def add(self, part: bytes) -> None:
        """A part has passed."""
        if not self.bytes_max or not part:
            return
        self._bytes_all += len(part)
        room = self.bytes_max - self._bytes_kept
        if room > 0:
            kept = bytes(part[:room])
            self.parts.append(kept)
            self._bytes_kept += len(kept)

    def content(self) -> Any:
        """JSON as data, text as text, anything else as a note of its kind and length."""
        content_type = self.content_type.lower()
        body = b"".join(self.parts)
        whole = self._bytes_all == self._bytes_kept
        if "json" in content_type and whole:
            try:
                return values.decode(body)
            except ValueError:
                pass
        if "json" in content_type or content_type.startswith(
            ("text/", "application/x-www-form-urlencoded", "application/xml")
        ):
            text = body.decode("utf-8", "replace")
            return text if whole else f"{text}<spanferry: cut, {self._bytes_all} bytes in all>"
        return f"<spanferry: {self._bytes_all} bytes of {self.content_type or 'unknown type'}>"
