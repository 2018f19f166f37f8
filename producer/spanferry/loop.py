"""The sender's event loop: names are resolved beside it, and forks find it at rest."""

import asyncio
import contextlib
import importlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from spanferry.native import original

if TYPE_CHECKING:
    import selectors

__all__ = ["Rest", "SenderLoop"]

_REST_S: Final = 1.0
_LOADED_S: Final = 10.0
_LOOK_S: Final = 0.1
_GIVE_WAY_S: Final = 0.0005
_GIVE_WAYS: Final = 100


_get_ident: Final[Callable[[], int]] = original("_thread", "get_ident")


class Rest:
    """Lets a fork wait until the sender's thread waits too.

    A child has of that thread what it has left in the middle: the lock of a module that it imports
    (whoever imports it in the child waits for ever), a lock on the spool's folder, a file that is
    closed and still named. The sender holds the lock here while it runs, and lets go of it while it
    waits for its sockets. A fork waits for that, for a second at most; while Kafka's client is being
    imported for ten, because that comes to its end.
    """

    def __init__(self) -> None:
        self._awake = original("_thread", "allocate_lock")()
        self._asked_for = 0
        self._sender = 0
        self._loading = False

    def end(self) -> None:
        """The calling thread, which is the sender's, runs from now on."""
        self._awake.acquire()
        self._sender = _get_ident()

    def begin(self) -> None:
        """The sender's thread waits, or has ended."""
        self._awake.release()

    def give_way(self) -> None:
        """Between the two: whoever waits gets it, which a lock does not promise.

        A thread that is woken takes a while to run where the processor has much to do.
        """
        for _ in range(_GIVE_WAYS):
            if not self._asked_for or self._awake.locked():
                return
            time.sleep(_GIVE_WAY_S)

    def load(self, module: str) -> None:
        """Import it on the sender's thread, which a fork waits for; who waits already goes first.

        Raises what the import raises.
        """
        self._loading = True
        try:
            if self._asked_for:
                self.begin()
                self.give_way()
                self.end()
            importlib.import_module(module)
        finally:
            self._loading = False

    def hold(self) -> bool:
        """Keep the sender at rest until `begin` is called. False where it does not come to rest, and
        where it forks itself."""
        if self._sender == _get_ident():
            return False
        self._asked_for += 1
        try:
            began_s = now_s = time.monotonic()
            until_s = began_s + _REST_S
            while now_s < until_s:
                if self._awake.acquire(timeout=min(until_s - now_s, _LOOK_S)):
                    return True
                now_s = time.monotonic()
                if self._loading:
                    until_s = max(until_s, min(now_s + _REST_S, began_s + _LOADED_S))
            return False
        finally:
            self._asked_for -= 1


class SenderLoop(asyncio.SelectorEventLoop):
    """Works without the default executor, which is gone while Python exits."""

    def __init__(self, rest: Rest) -> None:
        selector: selectors.BaseSelector = original("selectors", "DefaultSelector")()
        select = selector.select

        def select_at_rest(timeout: float | None = None) -> Any:
            rest.begin()
            try:
                rest.give_way()
                return select(timeout)
            finally:
                rest.end()

        selector.select = select_at_rest  # type: ignore[method-assign]
        super().__init__(selector)

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002  asyncio's own signature
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """In a thread of its own: a name server that does not answer must not keep what waits from
        going to the spool."""
        answer: asyncio.Future[Any] = self.create_future()
        look_up = original("socket", "getaddrinfo")

        def resolve() -> None:
            try:
                found, error = look_up(host, port, family, type, proto, flags), None
            except Exception as raised:  # noqa: BLE001  it is raised where it is waited for
                found, error = None, raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self.call_soon_threadsafe(_settle, answer, found, error)

        try:
            original("_thread", "start_new_thread")(resolve, ())
        except RuntimeError:  # no more threads
            return look_up(host, port, family, type, proto, flags)
        return await answer

    def run_in_executor(  # type: ignore[override]
        self,
        executor: Any,  # noqa: ARG002
        func: Any,
        *args: Any,
    ) -> asyncio.Future[Any]:
        """On this thread: aiokafka's sign-in, some milliseconds."""
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  it is the caller's
            done.set_exception(error)
        return done


def _settle(answer: "asyncio.Future[Any]", found: Any, error: Exception | None) -> None:
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(found)
