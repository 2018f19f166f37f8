"""`python -m spanferry_worker.dev.broker --port 9092 --topic NAME:PARTITIONS`: until SIGTERM."""

import argparse
import asyncio
import signal
import sys

from spanferry_worker.dev.broker.server import EmbeddedBroker


async def _run(port: int, topics: list[str]) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with EmbeddedBroker(port=port) as broker:
        for topic in topics:
            name, _, partitions = topic.rpartition(":")
            broker.create_topic(name, int(partitions))
        sys.stdout.write(f"listening on {broker.bootstrap_servers}\n")
        sys.stdout.flush()
        await ended.wait()


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m spanferry_worker.dev.broker")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--topic", action="append", default=[], metavar="NAME:PARTITIONS")
    arguments = parser.parse_args()
    try:
        asyncio.run(_run(arguments.port, arguments.topic))
    except OSError as error:
        sys.exit(f"cannot listen on port {arguments.port}: {error.strerror}")


if __name__ == "__main__":
    main()
