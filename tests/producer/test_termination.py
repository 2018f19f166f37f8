"""SIGTERM at its default action flushes and then ends the process by it; other handlers stay."""

import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from spanferry import client, termination
from tests.services.process import free_port

PREAMBLE = """
import asyncio, os, signal, sys, threading, time
from spanferry import termination

def say(text):
    os.write(1, text.encode() + b"\\n")

def terminate():
    os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.fixture(autouse=True)
def _default_action():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    client.disable()
    termination.restore()
    signal.signal(signal.SIGTERM, before)


def run(*bodies: str) -> tuple[int, list[str]]:
    """A process of its own: its exit code and what it said."""
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + "".join(textwrap.dedent(body) for body in bodies)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout.split()


def own_handler(number, frame):
    """An app's."""


def test_it_ends_by_the_signal_after_the_flush():
    code, said = run("""
        def flush():
            time.sleep(0.2)
            say("flushed")
        termination.flush_first(flush)
        terminate()
        say("not-reached")
    """)
    assert (code, said) == (-signal.SIGTERM, ["flushed"])


def test_a_flush_that_fails_does_not_keep_it_alive():
    code, said = run("""
        termination.flush_first(lambda: 1 / 0)
        terminate()
        say("not-reached")
    """)
    assert (code, said) == (-signal.SIGTERM, [])


def test_a_second_one_does_not_wait():
    code, said = run("""
        def flush():
            say("flushing")
            terminate()
            time.sleep(30)
        termination.flush_first(flush)
        terminate()
    """)
    assert (code, said) == (-signal.SIGTERM, ["flushing"])


def test_a_lock_of_the_main_thread_is_waited_for():
    code, said = run("""
        lock = threading.Lock()
        def flush():
            with lock:
                say("flushed")
        termination.flush_first(flush)
        with lock:
            terminate()
            say("released")
        time.sleep(30)
    """)
    assert (code, said) == (-signal.SIGTERM, ["released", "flushed"])


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_an_event_loop_without_handlers(loop):
    code, said = run(f"""
        import {loop}
        async def main():
            asyncio.get_running_loop().call_later(0.2, terminate)
            await asyncio.sleep(30)
        termination.flush_first(lambda: say("flushed"))
        asyncio.Runner(loop_factory={loop}.new_event_loop).run(main())
    """)
    assert (code, said) == (-signal.SIGTERM, ["flushed"])


def test_an_event_loop_with_handlers_decides_itself():
    code, said = run("""
        async def main():
            stop = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
            asyncio.get_running_loop().call_later(0.1, terminate)
            await stop.wait()
            say("stopped")
        termination.flush_first(lambda: say("flushed"))
        asyncio.run(main())
    """)
    assert (code, said) == (0, ["stopped"])


def test_whoever_puts_it_back_and_raises_the_signal_again_gets_the_flush():
    code, said = run("""
        termination.flush_first(lambda: say("flushed"))
        before = signal.signal(signal.SIGTERM, lambda *_: say("handled"))
        terminate()
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
    """)
    assert (code, said) == (-signal.SIGTERM, ["handled", "flushed"])


def test_a_handler_that_calls_the_one_before_it_decides_itself():
    code, said = run("""
        termination.flush_first(lambda: say("flushed"))
        before = signal.getsignal(signal.SIGTERM)
        def handle(number, frame):
            before(number, frame)
            say("handled")
        signal.signal(signal.SIGTERM, handle)
        terminate()
        say("goes-on")
    """)
    assert (code, said) == (0, ["flushed", "handled", "goes-on"])


SERVED = """
import uvicorn

def serve(at_import=lambda: None, at_startup=lambda: None):
    async def app(scope, receive, send):
        if scope["type"] != "lifespan":
            return
        while True:
            if (await receive())["type"] == "lifespan.startup":
                at_startup()
                await send({"type": "lifespan.startup.complete"})
            else:
                say("shut-down")
                await send({"type": "lifespan.shutdown.complete"})
                return
    def load():
        at_import()
        return app
    server = uvicorn.Server(uvicorn.Config(load, factory=True, port=0, log_level="error"))
    def end():
        while not server.started:
            time.sleep(0.01)
        terminate()
    threading.Thread(target=end).start()
    server.run()
"""


@pytest.mark.parametrize("when", ["at_import", "at_startup"])
def test_an_app_that_uvicorn_has_imported_flushes_after_its_shutdown(when):
    """uvicorn's handler is in force by then, and behind it the default action."""
    code, said = run(
        SERVED,
        f"""
        def enable():
            termination.flush_first(lambda: say("flushed"))
            termination.flush_first(lambda: say("flushed"))
        serve({when}=enable)
        """,
    )
    assert (code, said) == (-signal.SIGTERM, ["shut-down", "flushed"])


def test_an_app_that_uvicorn_imports_later_flushes_once():
    code, said = run(
        SERVED,
        """
        termination.flush_first(lambda: say("flushed"))
        serve()
        """,
    )
    assert (code, said) == (-signal.SIGTERM, ["shut-down", "flushed"])


def test_a_server_is_seen_by_the_first_trace_after_a_fork():
    """As gunicorn does it, which loads the app before it forks its workers."""
    code, said = run(
        SERVED,
        f"""
        import spanferry
        spanferry.enable(bootstrap_servers="127.0.0.1:{free_port()}", mlflow=False, exit_timeout_s=0.3)
        child = os.fork()
        if child == 0:
            spanferry.termination._flush = lambda: say("flushed")
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            def trace():
                with spanferry.start_span("served"):
                    pass
            serve(at_startup=trace)
        say(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
        """,
    )
    assert (code, said) == (0, ["shut-down", "flushed", "-15"])


def test_a_forked_process_ends_by_the_signal_too():
    code, said = run("""
        termination.flush_first(lambda: say("flushed"))
        child = os.fork()
        if child == 0:
            time.sleep(30)
        time.sleep(0.2)
        os.kill(child, signal.SIGTERM)
        say(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
    """)
    assert (code, said) == (0, ["flushed", "-15"])


def test_it_is_there_while_spanferry_is_enabled():
    client.enable(bootstrap_servers=f"127.0.0.1:{free_port()}", mlflow=False)
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    client.enable(bootstrap_servers=f"127.0.0.1:{free_port()}", mlflow=False)
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    client.disable()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("handler", [own_handler, signal.SIG_IGN])
def test_an_apps_handler_stays(handler):
    signal.signal(signal.SIGTERM, handler)
    termination.flush_first(own_handler)
    assert signal.getsignal(signal.SIGTERM) is handler
    termination.restore()
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_handler_that_comes_later_stays():
    termination.flush_first(lambda: None)
    signal.signal(signal.SIGTERM, own_handler)
    termination.restore()
    assert signal.getsignal(signal.SIGTERM) is own_handler


def test_another_thread_than_the_main_one_changes_nothing():
    thread = threading.Thread(target=termination.flush_first, args=[lambda: None])
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
