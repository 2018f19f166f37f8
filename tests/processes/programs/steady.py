"""An app that traces until it is killed, and says how many traces the sender was done with."""

import time

import spanferry

EVERY = 100


def main() -> None:
    """2,000 traces a second."""
    spanferry.enable()
    number = 0
    while True:
        with spanferry.start_span(f"trace-{number}"):
            pass
        number += 1
        if number % EVERY == 0:
            account = spanferry.stats()
            print("at", account.traces_sent, "of", account.traces, flush=True)
        time.sleep(0.0005)


if __name__ == "__main__":
    main()
