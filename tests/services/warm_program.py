"""What test_warm.py runs: it ends in the way that it is told."""

import atexit
import os
import sys
import time
from pathlib import Path


def main() -> None:
    how = sys.argv[1]
    if how == "sleep":
        print("sleeps", flush=True)
        time.sleep(60)
    if how == "fails":
        raise ValueError("wrong")
    atexit.register(print, "the end")
    print(how, Path.cwd(), sorted(os.environ.items()), __name__, sys.argv, sys.stdin.read())
    print("an error", file=sys.stderr)
    if how == "exits":
        sys.exit(7)
    if how == "leaves":
        sys.stdout.flush()
        os._exit(3)


if __name__ == "__main__":
    main()
