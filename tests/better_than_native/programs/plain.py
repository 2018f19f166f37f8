"""So many traces, and then the program sits there until a signal ends it."""

import time

from tests.better_than_native.programs.shipping import answer, begin, trace


def main() -> None:
    options = begin()
    for number in range(options["count"]):
        trace(number)
    answer(made=options["count"])
    time.sleep(60)


if __name__ == "__main__":
    main()
