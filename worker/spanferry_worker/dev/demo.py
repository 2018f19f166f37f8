"""`spanferry demo`: the whole way on this machine, with an app, traffic and an account of it."""

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

from spanferry_schemas import TOPIC
from spanferry_worker.dev.account import Metered, balance, costs, read_back
from spanferry_worker.dev.ensemble import (
    GROUP,
    START_S,
    Ensemble,
    Ports,
    clean_environment,
    prepare_directory,
)
from spanferry_worker.dev.outcome import Outcome
from spanferry_worker.dev.process import Child, StartError, answers, wait_until
from spanferry_worker.dev.signals import Stopped, stop_on_signals
from spanferry_worker.dev.traffic import Reply, plan, send
from spanferry_worker.doctor.kafka_facts import ask_cluster, client_options, log_ends
from spanferry_worker.errors import FatalError
from spanferry_worker.settings import KafkaSettings

if TYPE_CHECKING:
    from spanferry_worker.dev.screen import Screen

__all__ = ["add_arguments", "run"]

EXPERIMENT: Final = "chat-service"
_REQUESTS_PER_S: Final = 40.0
"""About what two cores take with everything on them; more would measure waiting for a core."""
_POLL_S: Final = 0.5
_PACKAGES: Final = ("fastapi", "rich", "uvicorn")
_SEARCHES: Final = (
    "trace.status = 'ERROR'",
    "tag.topic = 'refunds' AND feedback.response_is_correct = 'false'",
    "metadata.`mlflow.trace.session` = 'session-07'",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See spanferry_worker.cli."""
    parser.add_argument("--requests", type=int, default=500, metavar="N", help="default: 500")
    parser.add_argument(
        "--exit",
        action="store_true",
        help="end after the summary; 0 only where every trace arrived complete",
    )
    parser.add_argument(
        "--kill-worker",
        action="store_true",
        help="kill the worker with -9 in the middle of the traffic, then start another",
    )
    parser.add_argument("--port", type=int, default=5000, help="MLflow's; default: 5000")
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path("spanferry-demo"),
        metavar="DIR",
        help="for database and logs, made anew each time; default: ./spanferry-demo",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=90.0,
        metavar="S",
        help="for the last trace to arrive; default: 90",
    )


def run(args: argparse.Namespace) -> int:
    """0 where every trace arrived complete, 1 where not or where something did not start."""
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise FatalError(f"{', '.join(missing)} is missing: pip install 'spanferry[demo]'")
    from spanferry_worker.dev.screen import Screen  # noqa: PLC0415  needs one of the packages

    screen = Screen()
    try:
        with stop_on_signals():
            return _Demo(args, screen).run()
    except StartError as error:
        screen.failure(str(error))
        return 1
    except Stopped as stopped:
        return stopped.exit_code


class _Demo:
    """One run, from nothing to nothing."""

    def __init__(self, args: argparse.Namespace, screen: "Screen") -> None:
        self._args = args
        self._screen = screen
        self._requests = plan(args.requests, f"demo-{time.strftime('%H%M%S')}")
        self._ports = Ports(broker=9092, mlflow=args.port, health=8790, app=8000)
        self._app_url = f"http://127.0.0.1:{self._ports.app}"

    def run(self) -> int:
        """See the module's `run`."""
        prepare_directory(self._args.directory, fresh=True)
        with (
            self._ports,
            Ensemble(self._args.directory, self._ports) as ensemble,
            self._new_app(ensemble) as app,
        ):
            with self._screen.starting() as progress:
                ensemble.wait_until_ready(progress)
                progress("the app")
                wait_until(app, lambda: answers(f"{self._app_url}/stats"), timeout_s=START_S)
            self._screen.started(ensemble)
            self._screen.started_app(self._app_url)
            outcome = self._cross(ensemble)
            self._screen.summary(outcome)
            self._screen.look("Look at the traces", [_traces_url(ensemble)])
            self._screen.look("Try mlflow.search_traces(filter_string=…) with", _SEARCHES)
            if not self._args.exit:
                self._screen.stay()
                with contextlib.suppress(Stopped):
                    while True:
                        time.sleep(3600)
        return 1 if outcome.balance.wrong else 0

    def _cross(self, ensemble: Ensemble) -> Outcome:
        """Send the traffic, wait for it to arrive, and make the account."""
        started = time.monotonic()
        replies = self._send(ensemble)
        traffic_s = time.monotonic() - started
        metered = self._metered()
        arrival_s = self._wait_for_arrival(ensemble)
        stored = read_back(ensemble.tracking_uri, EXPERIMENT, spans=True)
        return Outcome(
            balance(replies, metered, stored),
            costs(replies, metered),
            dropped=int(self._get("/stats")["traces_dropped"]),
            dead_letters=asyncio.run(_dead_letters(ensemble)),
            traffic_s=traffic_s,
            arrival_s=arrival_s,
        )

    def _send(self, ensemble: Ensemble) -> list[Reply]:
        answered = 0
        with self._screen.counting("sending", len(self._requests)) as show:

            def done(_reply: Reply) -> None:
                nonlocal answered
                answered += 1
                show(answered)
                if self._args.kill_worker and answered == len(self._requests) // 2:
                    self._screen.killed(ensemble.worker.pid)
                    ensemble.replace_worker()

            sending = send(self._app_url, self._requests, rate=_REQUESTS_PER_S, done=done)
            return asyncio.run(sending)

    def _wait_for_arrival(self, ensemble: Ensemble) -> float:
        """Until nothing is under way any more, or the time is over; returns the seconds."""
        started = time.monotonic()
        with self._screen.counting("arriving", len(self._requests)) as show:
            while time.monotonic() < started + self._args.timeout:
                buffered = self._get("/stats")["buffered_bytes"]
                records, lag = asyncio.run(_under_way(ensemble))
                show(len(self._requests) * (records - lag) // max(records, 1))
                if not buffered and not lag:
                    break
                ensemble.check()
                time.sleep(_POLL_S)
        return time.monotonic() - started

    def _metered(self) -> Mapping[str, Metered]:
        found = self._get("/demo/requests").items()
        return {request_id: Metered(spans, ns) for request_id, (spans, ns) in found}

    def _get(self, path: str) -> Any:
        response = httpx.get(f"{self._app_url}{path}", timeout=30.0, trust_env=False)
        return response.raise_for_status().json()

    def _new_app(self, ensemble: Ensemble) -> Child:
        options = ("--host=127.0.0.1", f"--port={self._ports.app}", "--log-level=warning")
        settings = {
            "SPANFERRY_BOOTSTRAP_SERVERS": ensemble.bootstrap_servers,
            "SPANFERRY_EXPERIMENT": EXPERIMENT,
        }
        return Child(
            "the app",
            [sys.executable, "-m", "uvicorn", "demo_app:app", f"--app-dir={_examples()}", *options],
            log=ensemble.directory / "logs" / "app.log",
            env=clean_environment(settings),
        )


async def _under_way(ensemble: Ensemble) -> tuple[int, int]:
    """Records in the topic, and those of them that no worker has committed yet."""
    facts = await ask_cluster(_options(ensemble), TOPIC, f"{TOPIC}.dlq", GROUP)
    records, committed = sum(facts.group.end.values()), sum(facts.group.committed.values())
    return records, records - committed


async def _dead_letters(ensemble: Ensemble) -> int:
    """Records in the dead letters."""
    _, ends = await log_ends(_options(ensemble), f"{TOPIC}.dlq", 1)
    return sum(ends.values())


def _options(ensemble: Ensemble) -> dict[str, Any]:
    return client_options(KafkaSettings(bootstrap_servers=ensemble.bootstrap_servers), 10.0)


def _examples() -> Path:
    """The example app: beside this module in a wheel, at the top of a checkout."""
    installed = Path(__file__).with_name("_examples")
    return installed if installed.is_dir() else Path(__file__).parents[3] / "examples"


def _traces_url(ensemble: Ensemble) -> str:
    from mlflow import MlflowClient  # noqa: PLC0415  takes a second

    experiment = MlflowClient(ensemble.tracking_uri).get_experiment_by_name(EXPERIMENT)
    path = f"experiments/{experiment.experiment_id}/traces" if experiment else "experiments"
    return f"{ensemble.tracking_uri}/#/{path}"
