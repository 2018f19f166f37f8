"""The HTTP APIs of model providers, faked: the same question gets the same answer, to the letter."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["fake_models"]

Body = dict[str, Any]
USAGE = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
TIMEOUT_S = 60


def last_message(body: Body) -> Body:
    """What the client said last."""
    return body["messages"][-1]


def wants_tool(body: Body) -> bool:
    """Whether to answer with a tool call: tools are offered, none has answered yet."""
    return bool(body.get("tools")) and last_message(body).get("role") == "user"


def chat_message(body: Body) -> Body:
    if wants_tool(body) and not any(m.get("role") == "tool" for m in body["messages"]):
        function = body["tools"][0]["function"]["name"]
        call = {"name": function, "arguments": '{"a": 2, "b": 3}'}
        calls = [{"id": "call_1", "type": "function", "function": call}]
        return {"role": "assistant", "content": None, "tool_calls": calls}
    return {"role": "assistant", "content": "It is five."}


def chat(body: Body) -> Body:
    """OpenAI's and Groq's chat completions."""
    message = chat_message(body)
    reason = "tool_calls" if "tool_calls" in message else "stop"
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": reason, "logprobs": None}],
        "usage": USAGE,
    }


def chat_chunks(body: Body) -> Iterator[Body]:
    """The same, streamed."""
    deltas: list[Body] = [{"role": "assistant", "content": ""}]
    message = chat_message(body)
    if "tool_calls" in message:
        deltas.append({"tool_calls": [{"index": 0, **message["tool_calls"][0]}]})
    else:
        deltas += [{"content": word} for word in ("It ", "is ", "five.")]
    common = {
        "id": "chatcmpl-2",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": body["model"],
    }
    for delta in deltas:
        yield {**common, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    reason = "tool_calls" if "tool_calls" in message else "stop"
    yield {**common, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    if (body.get("stream_options") or {}).get("include_usage"):
        yield {**common, "choices": [], "usage": USAGE}


def response(body: Body) -> Body:
    """OpenAI's responses."""
    text = {"type": "output_text", "text": "It is five.", "annotations": []}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_700_000_000,
        "model": body["model"],
        "status": "completed",
        "output": [
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [text],
            }
        ],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 11,
            "output_tokens": 5,
            "total_tokens": 16,
            "input_tokens_details": {"cached_tokens": 2},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }


def response_events(body: Body) -> Iterator[Body]:
    """The same, streamed."""
    whole = response(body)
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "sequence_number": 0, "response": begun}
    for number, word in enumerate(("It ", "is ", "five."), 1):
        kind = "response.output_text.delta"
        yield {"type": kind, "sequence_number": number, **place, "delta": word, "logprobs": []}
    yield {"type": "response.completed", "sequence_number": 4, "response": whole}


def embeddings(body: Body) -> Body:
    given = body["input"] if isinstance(body["input"], list) else [body["input"]]
    data = [
        {"object": "embedding", "index": index, "embedding": [0.25, -0.5, 1.0]}
        for index in range(len(given))
    ]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    return {"object": "list", "data": data, "model": body["model"], "usage": usage}


def anthropic_content(body: Body) -> list[Body]:
    if wants_tool(body) and isinstance(last_message(body)["content"], str):
        name = body["tools"][0]["name"]
        return [{"type": "tool_use", "id": "toolu_1", "name": name, "input": {"a": 2, "b": 3}}]
    return [{"type": "text", "text": "It is five."}]


def messages(body: Body) -> Body:
    """Anthropic's messages."""
    content = anthropic_content(body)
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content,
        "stop_reason": "tool_use" if content[0]["type"] == "tool_use" else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 11, "output_tokens": 5},
    }


def message_events(body: Body) -> Iterator[Body]:
    """The same, streamed."""
    whole = messages(body)
    begun = {**whole, "content": [], "stop_reason": None}
    yield {"type": "message_start", "message": begun}
    block = {"type": "text", "text": ""}
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    for word in ("It ", "is ", "five."):
        delta = {"type": "text_delta", "text": word}
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5}}
    yield {"type": "message_stop"}


ANSWERS = {
    "/chat/completions": (chat, chat_chunks),
    "/responses": (response, response_events),
    "/embeddings": (embeddings, None),
    "/messages": (messages, message_events),
}


class Handler(http.server.BaseHTTPRequestHandler):
    """A model named `broken` is an error."""

    timeout = TIMEOUT_S

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = [how for path, how in ANSWERS.items() if self.path.split("?")[0].endswith(path)]
        if not found or body.get("model") == "broken":
            error = {"message": "no such model", "type": "invalid_request_error"}
            self._answer(400, "application/json", json.dumps({"type": "error", "error": error}))
        elif body.get("stream"):
            events = found[0][1](body)
            self._answer(200, "text/event-stream", "".join(map(self._event, events)) + self._end())
        else:
            self._answer(200, "application/json", json.dumps(found[0][0](body)))

    def _event(self, event: Body) -> str:
        name = f"event: {event['type']}\n" if "type" in event else ""
        return f"{name}data: {json.dumps(event)}\n\n"

    def _end(self) -> str:
        return "data: [DONE]\n\n" if self.path.endswith("/chat/completions") else ""

    def _answer(self, status: int, kind: str, text: str) -> None:
        payload = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        """Nothing: the test says what went wrong."""


@contextmanager
def fake_models() -> Iterator[str]:
    """A server on a free port of 127.0.0.1, for as long as the context lasts: its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
