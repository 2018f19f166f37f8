"""A celery app on a broker of files: each task makes one trace, and says so."""

import os

from celery import Celery

import spanferry

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


@app.task(name="work")
def work(number: int) -> None:
    """One task, one trace."""
    with spanferry.start_span(f"task-{number}"):
        pass
    os.write(1, f"done {number} by {os.getpid()}\n".encode())
