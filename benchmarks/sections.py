"""Parts of pages that are made: what stands between two marks."""

__all__ = ["with_section"]


def with_section(text: str, begin: str, content: str, end: str) -> str:
    """The text with other content between the marks, which it must have."""
    head, found_begin, rest = text.partition(begin)
    _, found_end, tail = rest.partition(end)
    assert found_begin
    assert found_end
    return f"{head}{begin}\n{content}{end}{tail}"
