"""Asks workers for their pages, all at once, and never fails: what does not answer is shown as that."""

import asyncio
from collections.abc import Sequence
from typing import Final

import httpx
import orjson

from spanferry_worker.errors import SettingsError
from spanferry_worker.top.account import Account
from spanferry_worker.top.page import Counts, read_page

__all__ = ["Looker", "base_url"]

_TIMEOUT_S: Final = 2.0


def base_url(text: str) -> str:
    """`host:port` or a URL, with or without /metrics, as what pages are below. Raises SettingsError."""
    url = text if "://" in text else f"http://{text}"
    url = url.rstrip("/").removesuffix("/metrics").rstrip("/")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise SettingsError(f"--url {text}: give http://host:port of a worker's health port")
    return url


class Looker:
    """A worker, or a supervisor with several, at each of the URLs."""

    def __init__(self, urls: Sequence[str], account: Account) -> None:
        self._urls = urls
        self._account = account
        self._known: dict[str, set[str]] = {url: {_name(url)} for url in urls}
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False)

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def look(self) -> None:
        """Ask all of them once, and tell the account."""
        pages = await asyncio.gather(*(self._ask(url) for url in self._urls))
        now_s = asyncio.get_running_loop().time()
        for url, (counts, problems) in zip(self._urls, pages, strict=True):
            self._tell(url, counts, problems, now_s)
        self._account.finish(now_s)

    def _tell(
        self, url: str, counts: dict[str, Counts], problems: dict[str, str], now_s: float
    ) -> None:
        reason = problems.get("", "does not answer")
        found = {_name(url, process): one for process, one in counts.items()}
        if found and self._known[url] == {_name(url)}:
            # The name for a worker that never answered; by now its processes are known.
            if _name(url) not in found:
                self._account.forget(_name(url))
            self._known[url] = set()
        for process, one in counts.items():
            self._account.saw(_name(url, process), one, now_s, problems.get(process, ""))
        for name in self._known[url] - found.keys():
            process = name.rpartition("#")[2] if "#" in name else ""
            self._account.saw(name, None, now_s, problems.get(process, reason))
        self._known[url] |= found.keys()

    async def _ask(self, url: str) -> tuple[dict[str, Counts], dict[str, str]]:
        """The processes there, and what is wrong with which; under no name with all of them."""
        try:
            page, ready = await asyncio.gather(
                self._client.get(f"{url}/metrics"), self._client.get(f"{url}/readyz")
            )
            if not page.is_success:
                return {}, {"": f"/metrics answers {page.status_code}"}
            return read_page(page.text), _problems(ready.content)
        except httpx.TimeoutException:
            return {}, {"": "does not answer in time"}
        except (httpx.HTTPError, httpx.StreamError) as error:
            return {}, {"": _plain(error)}
        except ValueError as error:
            return {}, {"": str(error)}


def _name(url: str, process: str = "") -> str:
    host = url.partition("://")[2]
    return f"{host}#{process}" if process else host


def _problems(body: bytes) -> dict[str, str]:
    try:
        answer = orjson.loads(body)
    except ValueError:
        return {}
    if not isinstance(answer, dict):
        return {}
    several = answer.get("problems")
    if isinstance(several, dict):
        return {str(name): str(problem) for name, problem in several.items()}
    return {"": str(answer["problem"])} if answer.get("problem") else {}


def _plain(error: Exception) -> str:
    text = str(error)
    refused = isinstance(error, httpx.ConnectError)
    return "nothing listens there" if refused else text or type(error).__name__
