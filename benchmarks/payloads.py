"""What the benchmarked traces carry: chat-like JSON of a stated size, the same for every SDK.

A trace is one question to a retrieval agent: AGENT > RETRIEVER, TOOL, CHAIN > CHAT_MODEL, each with
inputs and outputs. The text is made of words drawn by Zipf's law with some non-ASCII ones, quotes
and line breaks, so that it escapes and compresses about as prose does.
"""

import itertools
import json
import random
from typing import Any, NamedTuple

__all__ = ["SHAPES", "SpanPayload", "TracePayload", "json_bytes", "make_payload", "make_tree"]

SHAPES = ("chat", "rows")
"""chat: documents, messages and answers; rows: thousands of small dicts, as a SQL tool returns."""

_DOCUMENT_BYTES = 1_500


class TracePayload(NamedTuple):
    """Inputs and outputs of the five spans, outermost first."""

    agent: tuple[Any, Any]
    retriever: tuple[Any, Any]
    tool: tuple[Any, Any]
    chain: tuple[Any, Any]
    chat_model: tuple[Any, Any]


class SpanPayload(NamedTuple):
    """One span of a trace with any number of them."""

    span_type: str
    inputs: Any
    outputs: Any
    children: list["SpanPayload"]


def json_bytes(payload: TracePayload | SpanPayload) -> int:
    """Size of a payload: the sum of its values as compact UTF-8 JSON."""
    if isinstance(payload, SpanPayload):
        return (
            _size(payload.inputs)
            + _size(payload.outputs)
            + sum(json_bytes(child) for child in payload.children)
        )
    return sum(_size(value) for span in payload for value in span)


def make_tree(spans: int, size: int, seed: int) -> SpanPayload:
    """A trace of `spans` spans that carry `size` bytes between them, if about 40 bytes each are enough.

    A root, CHAINs below it, and up to four leaves below each CHAIN.
    """
    text = _Text(random.Random(seed), 2 * size)
    each = size // spans // 2
    made = 0

    def span(span_type: str) -> SpanPayload:
        nonlocal made
        made += 1
        values = [{key: ""} for key in ("query", "answer")]
        for value in values:
            for key in value:
                value[key] = text.take(each - _size(value))
        return SpanPayload(span_type, values[0], values[1], [])

    root = span("AGENT")
    while made < spans:
        chain = span("CHAIN")
        root.children.append(chain)
        for span_type in ("RETRIEVER", "TOOL", "CHAT_MODEL", "TOOL")[: spans - made]:
            chain.children.append(span(span_type))
    return root


def make_payload(shape: str, size: int, seed: int) -> TracePayload:
    """A payload of `size` bytes, within 2 percent from 10 KB on, 10 below. Same arguments, same payload."""
    chance = random.Random(seed)
    small = _Text(chance, size // 4, scale=min(1.0, (size - 600) / 9_400))
    room = size - json_bytes(_trace(small, "", [], [], []))
    big = _Text(chance, room + room // 8)
    if shape == "rows":
        thirds = [_rows(big, room // 3) for _ in range(3)]
        return _trace(small, "", thirds[0], thirds[1], thirds[2])
    documents = _documents(big, room * 45 // 100)
    rows = _rows(big, room * 10 // 100)
    rest = room - _size(documents) - _size(rows)
    return _trace(small, big.take(rest), documents, rows, [])


def _trace(
    small: "_Text", context: str, documents: list[Any], rows: list[Any], facts: list[Any]
) -> TracePayload:
    question, answer = small.take(120, again=True), small.take(600, again=True)
    messages = [
        {"role": "system", "content": small.take(300, again=True)},
        {"role": "user", "content": context + "\n\n" + question},
    ]
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": answer, "refusal": None},
    }
    usage = {"prompt_tokens": len(context) // 4, "completion_tokens": 150, "total_tokens": 0}
    return TracePayload(
        agent=(
            {"messages": [{"role": "user", "content": question}], "session": "s-4711"},
            {"answer": answer, "sources": ["handbook/12", "wiki/7"]},
        ),
        retriever=({"query": question, "k": len(documents)}, documents),
        tool=({"sql": "SELECT id, name, score FROM items WHERE tenant = ?", "limit": 50}, rows),
        chain=({"question": question, "facts": facts}, {"answer": answer, "confidence": 0.87}),
        chat_model=(
            {"model": "small-1", "temperature": 0.2, "messages": messages},
            {"id": "chatcmpl-1", "choices": [choice], "usage": usage},
        ),
    )


def _documents(text: "_Text", size: int) -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = []
    count = max(2, size // _DOCUMENT_BYTES)
    for number in range(count):
        document = {
            "id": f"doc-{number:06d}",
            "page_content": "",
            "metadata": {"source": f"handbook/{number % 97}.md", "chunk": number, "score": 0.731},
        }
        document["page_content"] = text.take(size // count - _size(document))
        documents.append(document)
    return documents


def _rows(text: "_Text", size: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    while size > 0:
        number = len(rows)
        row = {"id": number, "name": text.take(9), "score": number / 7, "ok": number % 3 == 0}
        rows.append(row)
        size -= _size(row) + 1
    return rows


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


class _Text:
    """Prose to cut pieces from."""

    def __init__(self, chance: random.Random, size: int, *, scale: float = 1.0) -> None:
        self._scale = scale
        words = chance.choices(_WORDS, cum_weights=_WEIGHTS, k=size // 5 + 200)
        self._text = " ".join(words)
        self._at = 0

    def take(self, size: int, *, again: bool = False) -> str:
        """The next piece, `size` bytes long as JSON give or take a few; `again` stays in place.

        `scale` shortens every piece: what is fixed in a trace has to fit into small ones too.
        """
        start = self._at
        end = start + max(int(size * self._scale), 1)
        piece = self._text[start:end]
        end -= _size(piece) - 2 - len(piece)
        if not again:
            self._at = end
        return self._text[start:end]


def _vocabulary() -> list[str]:
    chance = random.Random(1)
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstv", "aeiou")]
    words = {
        "".join(chance.choices(syllables, k=chance.choice((1, 2, 2, 3, 4)))) for _ in range(5000)
    }
    ordered = sorted(words)
    chance.shuffle(ordered)
    ordered[40:44] = ["für", "naïve", 'a "quoted" term', "end.\n"]
    ordered[300:303] = ["東京", "→", "😀"]
    return ordered


_WORDS = _vocabulary()
_WEIGHTS = list(itertools.accumulate(1 / (rank + 8) for rank in range(len(_WORDS))))
