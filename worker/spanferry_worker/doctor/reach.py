"""Whether an address can be reached, and if not, why: the name, the port or the way there."""

import asyncio
import socket
from enum import StrEnum
from typing import Final

from msgspec import Struct

from spanferry_worker.doctor.findings import Area, Finding, good, problem

__all__ = ["Address", "Reach", "Reached", "judge_reach", "parse_servers", "reach"]

_PORT_MAX: Final = 65_535


class Reached(StrEnum):
    """How far a connection came."""

    CONNECTED = "connected"
    UNKNOWN_NAME = "unknown name"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"


class Address(Struct, frozen=True):
    """A host and its port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Reach(Struct, frozen=True):
    """An attempt to connect. `detail` is the operating system's word on it."""

    address: Address
    reached: Reached
    ms: float = 0.0
    detail: str = ""


def parse_servers(text: str) -> tuple[list[Address], list[str]]:
    """`host:port[,host:port]` as addresses, and the pieces that are none. IPv6 in brackets."""
    addresses: list[Address] = []
    wrong: list[str] = []
    for piece in filter(None, (part.strip() for part in text.split(","))):
        host, colon, port = piece.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        number = int(port) if port.isascii() and port.isdecimal() else 0
        if colon and host and "/" not in host and 0 < number <= _PORT_MAX:
            addresses.append(Address(host, number))
        else:
            wrong.append(piece)
    return addresses, wrong


async def reach(address: Address, timeout_s: float) -> Reach:
    """Try to open a connection. Never raises."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    detail = ""
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(address.host, address.port)
        writer.close()
        reached = Reached.CONNECTED
    except TimeoutError:
        reached = Reached.TIMEOUT
    except socket.gaierror as error:
        reached, detail = Reached.UNKNOWN_NAME, error.strerror or ""
    except ConnectionRefusedError:
        reached = Reached.REFUSED
    except OSError as error:
        # Where a name has several addresses asyncio puts all their errors into one.
        refused = "Multiple exceptions" in str(error) and "refused" in str(error)
        reached = Reached.REFUSED if refused else Reached.UNREACHABLE
        detail = error.strerror or str(error)
    except UnicodeError as error:
        reached, detail = Reached.UNKNOWN_NAME, str(error)
    return Reach(address, reached, (loop.time() - started) * 1000, detail)


def judge_reach(result: Reach, area: Area, what: str) -> Finding:
    """What an attempt to connect to `what` means."""
    address = result.address
    match result.reached:
        case Reached.CONNECTED:
            return good(area, f"{address} accepts connections", ms=result.ms)
        case Reached.UNKNOWN_NAME:
            return problem(
                area,
                f"the name {address.host!r} of {what} is not known here ({result.detail})",
                "check the spelling, and whether the name is known in this network: a name of a "
                "container network is known inside of it only",
            )
        case Reached.REFUSED:
            return problem(
                area,
                f"nothing listens on {address}",
                f"start {what}, or correct the port",
            )
        case Reached.TIMEOUT:
            return problem(
                area,
                f"{address} does not answer within {result.ms / 1000:.0f} s",
                "a firewall, a security group or a missing route swallows the connection: open "
                f"port {address.port} from here",
            )
        case Reached.UNREACHABLE:
            return problem(
                area,
                f"{address} cannot be reached: {result.detail}",
                "check the route from this machine, and VPN or proxy settings",
            )
