"""Lives, one after the other, that trace until they are ended; of each trace it is noted when it ended.

`python -m tests.processes.programs.dated LABEL NOTES LIVES`: a life is a forked child. It says when
the sender has settled something, and leaves by os._exit when it is told anything. NOTES is a folder.
"""

import os
import sys
import threading
import time
from pathlib import Path

import spanferry

BETWEEN_S = 0.002


def leave_when_told() -> None:
    """In the middle of whatever the other threads do."""
    os.read(0, 100)
    os._exit(3)


def live(label: str, notes: Path) -> None:
    """Some hundred traces a second; the times are 8 bytes each, in nanoseconds."""
    threading.Thread(target=leave_when_told, daemon=True).start()
    times = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number, settled = 0, False
    while True:
        with spanferry.start_span(f"{label}-{number}"):
            pass
        os.write(times, time.monotonic_ns().to_bytes(8, "little"))
        number += 1
        if not settled:
            account = spanferry.stats()
            settled = account.traces_sent + account.traces_spooled > 0
            if settled:
                os.write(1, f"settled {label} {os.getpid()}\n".encode())
        time.sleep(BETWEEN_S)


def main(label: str, notes: str, lives: str) -> None:
    """The parent traces nothing."""
    spanferry.enable()
    for number in range(int(lives)):
        if os.fork() == 0:
            live(f"{label}.{number}", Path(notes, f"{label}.{number}"))
        os.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
