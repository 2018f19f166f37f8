"""A celery app on a broker of files: each task makes one trace, and says so.

TRACE_FIRST=true makes one while it is imported, before celery forks.
"""

import os

from celery import Celery

import spanferry
from tests.processes.programs import timing

folder = os.environ["TASKS_FOLDER"]

app = Celery(
    broker="filesystem://",
    broker_transport_options={
        "data_folder_in": f"{folder}/queue",
        "data_folder_out": f"{folder}/queue",
        "control_folder": f"{folder}/control",
        "polling_interval": 0.1,
    },
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)
if not os.environ.get("ENABLE_IN_CHILD"):
    spanferry.enable()
    timing.measure()
    if os.environ.get("TRACE_FIRST"):
        with spanferry.start_span("first-0"):
            pass
else:
    from celery.signals import worker_process_init

    worker_process_init.connect(lambda **_: spanferry.enable(), weak=False)


@app.task(name="work")
def work(number: int) -> None:
    """One task, one trace."""
    with spanferry.start_span(f"task-{number}"), spanferry.start_span("inside"):
        pass
    os.write(1, f"done {number} by {os.getpid()}\n".encode())
