"""The demo's requests: of every size, the same every time, sent at a rate and rated."""

import asyncio
import json
import math
from collections import Counter

import pytest

from spanferry_worker.dev import traffic
from spanferry_worker.dev.traffic import SIZES, Reply, plan, send


def length(body: dict) -> int:
    return len(body["message"]) + sum(len(turn["content"]) for turn in body["history"])


def test_every_conversation_has_the_size_it_is_counted_under() -> None:
    for request in plan(200, "r"):
        assert length(request.body) == SIZES[request.size][0]


def test_sizes_come_in_their_shares() -> None:
    counts = Counter(request.size for request in plan(500, "r"))
    assert counts == {size: round(500 * share) for size, (_, share) in SIZES.items()}
    assert math.isclose(sum(share for _, share in SIZES.values()), 1)


@pytest.mark.parametrize("count", [1, 4, 5, 7, 33, 101])
def test_any_number_of_requests(count: int) -> None:
    requests = plan(count, "r")
    assert len(requests) == count
    assert len({request.request_id for request in requests}) == count


def test_a_run_is_like_the_one_before() -> None:
    first, second = plan(60, "a"), plan(60, "b")
    assert [r.body for r in first] == [r.body for r in second]
    assert not {r.request_id for r in first} & {r.request_id for r in second}
    assert any(r.stream for r in first)
    assert {r.helpful for r in plan(500, "r")} == {None, True, False}


class Service:
    """Answers like the chat service; counts what comes and how many come at once."""

    def __init__(self) -> None:
        self.paths: Counter[str] = Counter()
        self.rated: dict[str, bool] = {}
        self.open = self.most_open = 0
        self.conversations: set[asyncio.Task[None] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.conversations.add(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split()[1].decode()
                fields = dict(
                    line.lower().split(b": ", 1)
                    for line in head.split(b"\r\n")[1:]
                    if b": " in line
                )
                body = json.loads(await reader.readexactly(int(fields[b"content-length"])))
                await self.answer(path, body, fields, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def answer(
        self, path: str, body: dict, fields: dict, writer: asyncio.StreamWriter
    ) -> None:
        self.paths[path] += 1
        if path.startswith("/chat_feedback?client_request_id="):
            self.rated[path.partition("=")[2]] = body["is_correct"]
        else:
            assert {b"x-request-id", b"x-session-id", b"x-user-id"} <= fields.keys()
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        await asyncio.sleep(0.002)
        self.open -= 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def test_all_are_sent_and_rated_and_not_too_many_at_once() -> None:
    service = Service()
    requests = [request for request in plan(150, "r") if request.size != "1 MB"]
    done: list[Reply] = []
    async with await asyncio.start_server(service.serve, "127.0.0.1", 0, limit=1 << 22) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        replies = await send(url, requests, rate=10_000, done=done.append)
        await asyncio.gather(*filter(None, service.conversations))
    assert replies == done
    assert {reply.status for reply in replies} == {200}
    assert {r.request.request_id for r in replies} == {r.request_id for r in requests}
    assert service.rated == {r.request_id: r.helpful for r in requests if r.helpful is not None}
    assert service.paths["/chat/stream"] == sum(request.stream for request in requests)
    assert 1 < service.most_open <= traffic.CONCURRENCY_MAX


async def test_an_app_that_is_gone_is_status_0() -> None:
    replies = await send("http://127.0.0.1:1", plan(2, "r"), rate=1_000, done=lambda _: None)
    assert [reply.status for reply in replies] == [0, 0]
