"""Tasks for celery's workers, in a broker that is a folder."""

from pathlib import Path

from celery import Celery

__all__ = ["queue_more_tasks", "queue_tasks"]


def queue_tasks(folder: Path, count: int, *, first: int = 0) -> None:
    """Queue the task `work` so many times, with its number, where a worker finds it whose
    TASKS_FOLDER is `folder`."""
    (folder / "queue").mkdir(parents=True)
    options = {
        "data_folder_in": str(folder / "queue"),
        "data_folder_out": str(folder / "queue"),
        "control_folder": str(folder / "control"),
    }
    client = Celery(broker="filesystem://", broker_transport_options=options, set_as_current=False)
    with client.connection_for_write() as connection:
        for number in range(first, first + count):
            client.send_task("work", args=[number], connection=connection)


def queue_more_tasks(folder: Path, count: int, *, first: int) -> None:
    """Beside a worker that is looking already: it must not meet half of one."""
    queue_tasks(folder / "more", count, first=first)
    for task in sorted((folder / "more" / "queue").iterdir()):
        task.rename(folder / "queue" / task.name)
