"""gunicorn's configuration beside prometheus_client: who has ended is not among those that live."""

from prometheus_client import multiprocess


def child_exit(server, worker):
    """In gunicorn's own process, whatever ended the worker."""
    multiprocess.mark_process_dead(worker.pid)
