"""`python -m spanferry_worker` is `spanferry`."""

from spanferry_worker.cli import entry

if __name__ == "__main__":
    entry()
