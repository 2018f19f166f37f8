"""`python -m spanferry_worker` is `spanferry`."""

import sys

from spanferry_worker.cli import main

if __name__ == "__main__":
    sys.exit(main())
