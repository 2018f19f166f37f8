"""Tasks for celery's workers, in a broker that is a folder."""

from pathlib import Path

from celery import Celery

__all__ = ["queue_tasks"]


def queue_tasks(folder: Path, count: int) -> None:
    """Queue the task `work` so many times, with its number, where a worker finds it whose
    TASKS_FOLDER is `folder`."""
    (folder / "queue").mkdir()
    options = {
        "data_folder_in": str(folder / "queue"),
        "data_folder_out": str(folder / "queue"),
        "control_folder": str(folder / "control"),
    }
    client = Celery(broker="filesystem://", broker_transport_options=options, set_as_current=False)
    with client.connection_for_write() as connection:
        for number in range(count):
            client.send_task("work", args=[number], connection=connection)
