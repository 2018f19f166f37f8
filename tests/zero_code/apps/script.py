"""A script that traces, in itself and in a child that multiprocessing starts anew."""

import multiprocessing

import spanferry


def trace(name: str) -> None:
    """One trace."""
    with spanferry.start_span(name):
        pass


if __name__ == "__main__":
    trace("script")
    child = multiprocessing.get_context("spawn").Process(target=trace, args=("child",))
    child.start()
    child.join()
