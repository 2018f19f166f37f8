"""Requests for the chat service: the same in every run, of many sizes, some streamed, some rated."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import httpx
from msgspec import Struct

__all__ = ["SIZES", "Reply", "Request", "plan", "send"]

SIZES: Final[Mapping[str, tuple[int, float]]] = {
    "10 B": (10, 0.34),
    "1 KB": (1_000, 0.30),
    "10 KB": (10_000, 0.22),
    "100 KB": (100_000, 0.11),
    "1 MB": (1_000_000, 0.03),
}
"""Bytes of a conversation, and how many of the requests have that."""

_QUESTIONS: Final = (
    "When are refunds paid back?",
    "Where do I find my invoices?",
    "How can I reset my password?",
    "How long does deletion of my account take?",
    "What are your shipping times?",
    "How do returns work?",
)
_SAID: Final[Mapping[str, Sequence[str]]] = {
    "user": (
        "I wrote to you last week and have not had an answer yet.",
        "The parcel came on Tuesday, but one of the two boxes was open.",
        "My card was charged twice for the same order.",
        "I have moved, and the old address is still on the invoice.",
        "Can somebody please look at my account?",
        "That did not work, the page says that my link is no longer valid.",
        "I would like to send the blue one back and keep the other.",
        "Thanks, and how long will that take?",
    ),
    "assistant": (
        "I am sorry to hear that. May I have the number of your order?",
        "Thank you, I have found it. It left our warehouse on Monday morning.",
        "The second charge is only a reservation; your bank releases it within a week.",
        "I have changed the address, and a new invoice is on its way to you by mail.",
        "Please open the sign-in page and choose the second link below the form.",
        "You can hand it in at any post office, the label is in your messages.",
        "It usually takes three working days, in rare cases up to seven.",
        "Is there anything else that I can do for you?",
    ),
}
_TURN_BYTES_MAX: Final = 4_000
_SESSIONS: Final = 60
_USERS: Final = 20
_REQUEST_S: Final = 60.0
CONCURRENCY_MAX: Final = 16


class Request(Struct, frozen=True):
    """One request to come. `size` is a key of SIZES; `helpful` is the rating it will get, if any."""

    request_id: str
    size: str
    stream: bool
    session: str
    user: str
    body: dict[str, Any]
    helpful: bool | None


class Reply(Struct, frozen=True):
    """What came back: 0 where nothing did."""

    request: Request
    status: int


def plan(count: int, run: str) -> list[Request]:
    """`count` requests, whose ids begin with `run`; equal but for the ids in every run."""
    chance = random.Random(7)  # noqa: S311  nothing here is secret
    sizes = _sizes(count)
    chance.shuffle(sizes)
    return [
        _request(number, f"{run}-{number:05}", size, chance) for number, size in enumerate(sizes)
    ]


def _sizes(count: int) -> list[str]:
    """Every size in its share, at least once where there is room for all."""
    names = list(SIZES)
    sizes = [name for name in names for _ in range(max(1, round(count * SIZES[name][1])))]
    return (sizes + names[:1] * count)[:count] if len(sizes) <= count else sizes[-count:]


def _request(number: int, request_id: str, size: str, chance: random.Random) -> Request:
    wanted = SIZES[size][0]
    question = chance.choice(_QUESTIONS)
    message = f"{question} Ticket {number}." if wanted >= 100 else f"Help {number:05}"[:wanted]
    session = chance.randrange(_SESSIONS)
    rated = number % 10 == 0
    return Request(
        request_id=request_id,
        size=size,
        stream=number % 5 == 4,
        session=f"session-{session:02}",
        user=f"user-{session % _USERS:02}",
        body={"message": message, "history": _history(wanted - len(message), chance)},
        helpful=chance.random() < 0.8 if rated else None,
    )


def _history(size: int, chance: random.Random) -> list[dict[str, str]]:
    """Turns of a conversation, `size` bytes in all."""
    turns: list[dict[str, str]] = []
    while size > 0:
        role = "assistant" if len(turns) % 2 else "user"
        length = min(size, chance.randint(200, _TURN_BYTES_MAX))
        text = ""
        while len(text) < length:
            text += chance.choice(_SAID[role]) + " "
        turns.append({"role": role, "content": text[:length]})
        size -= length
    return turns


async def send(
    url: str, requests: Sequence[Request], *, rate: float, done: Callable[[Reply], None]
) -> list[Reply]:
    """Send all requests and rate those that are to be rated; at most `rate` of them a second start,
    and at most CONCURRENCY_MAX are open at once."""
    loop = asyncio.get_running_loop()
    replies: list[Reply] = []
    places = asyncio.Semaphore(CONCURRENCY_MAX)

    async def work(client: httpx.AsyncClient, request: Request) -> None:
        reply = await _send_one(client, request)
        places.release()
        replies.append(reply)
        done(reply)

    async with (
        httpx.AsyncClient(base_url=url, timeout=_REQUEST_S, trust_env=False) as client,
        asyncio.TaskGroup() as group,
    ):
        due = loop.time()
        for request in requests:
            await places.acquire()
            due = max(due + 1 / rate, loop.time())
            await asyncio.sleep(due - loop.time())
            group.create_task(work(client, request))
    return replies


async def _send_one(client: httpx.AsyncClient, request: Request) -> Reply:
    headers = {
        "X-Request-ID": request.request_id,
        "X-Session-ID": request.session,
        "X-User-ID": request.user,
    }
    path = "/chat/stream" if request.stream else "/chat"
    try:
        response = await client.post(path, json=request.body, headers=headers)
        if request.helpful is not None:
            rating = {
                "is_correct": request.helpful,
                "comment": None if request.helpful else "not what I asked",
            }
            rated = {"client_request_id": request.request_id}
            await client.post("/chat_feedback", params=rated, json=rating, headers=headers)
    except httpx.HTTPError:
        return Reply(request, 0)
    return Reply(request, response.status_code)
