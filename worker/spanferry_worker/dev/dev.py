"""`spanferry dev`: Kafka, MLflow and a worker on this machine, for the app that one is working on."""

import argparse
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from spanferry_worker.dev.ensemble import Ensemble, Ports, prepare_directory
from spanferry_worker.dev.process import StartError
from spanferry_worker.dev.signals import Stopped, stop_on_signals
from spanferry_worker.errors import FatalError

if TYPE_CHECKING:
    from spanferry_worker.dev.screen import Screen

__all__ = ["add_arguments", "run"]

_LOOK_S: Final = 2.0
_CODE: Final = (
    "import spanferry",
    'spanferry.enable(experiment="my-app")',
    "",
    "@spanferry.trace",
    "def answer(question: str) -> str: ...",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See spanferry_worker.cli."""
    parser.add_argument("--port", type=int, default=5000, help="MLflow's; default: 5000")
    parser.add_argument("--broker-port", type=int, default=9092, help="Kafka's; default: 9092")
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path("spanferry-dev"),
        metavar="DIR",
        help="for database and logs, kept from run to run; default: ./spanferry-dev",
    )


def run(args: argparse.Namespace) -> int:
    """0 when it is ended by Ctrl-C or SIGTERM, 1 where something did not start or has ended."""
    if find_spec("rich") is None:
        raise FatalError("rich is missing: pip install 'spanferry[demo]'")
    from spanferry_worker.dev.screen import Screen  # noqa: PLC0415  needs rich

    screen = Screen()
    try:
        with stop_on_signals():
            _run(args, screen)
    except StartError as error:
        screen.failure(str(error))
        return 1
    except Stopped:
        return 0
    return 0


def _run(args: argparse.Namespace, screen: "Screen") -> None:
    """Until a signal. Raises StartError, also where a part ends by itself later on."""
    prepare_directory(args.directory, fresh=False)
    ports = Ports(broker=args.broker_port, mlflow=args.port, health=8790, app=0)
    with ports, Ensemble(args.directory, ports) as ensemble:
        with screen.starting() as progress:
            ensemble.wait_until_ready(progress)
        screen.started(ensemble)
        screen.look(
            "For the app", [f"export SPANFERRY_BOOTSTRAP_SERVERS={ensemble.bootstrap_servers}"]
        )
        screen.look("In the app", _CODE)
        screen.look("Traces", [f"{ensemble.tracking_uri}/#/experiments"])
        screen.stay()
        while True:
            time.sleep(_LOOK_S)
            ensemble.check()
