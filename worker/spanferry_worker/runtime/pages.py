"""What one worker's /healthz, /readyz and /metrics say."""

from spanferry_worker.ports import Clock
from spanferry_worker.runtime.health import Answer, Page, json_answer
from spanferry_worker.runtime.pipeline import Pipeline
from spanferry_worker.services.metrics import Metrics

__all__ = ["worker_pages"]


def worker_pages(pipeline: Pipeline, metrics: Metrics, clock: Clock) -> dict[str, Page]:
    """Healthy: a restart would not help. Ready: traces flow. What is wrong is the `problem`."""

    def failing_s() -> float:
        since_ms = pipeline.writer.failing_since_ms
        return 0.0 if since_ms is None else max(1, clock.now_ms() - since_ms) / 1000

    def obstacle() -> str | None:
        """Why no traces flow; None where they do."""
        if pipeline.state != "ready":
            return pipeline.state
        seconds = failing_s()
        return f"the store has been failing for {seconds:.0f} s" if seconds else None

    async def healthz() -> Answer:
        stuck = pipeline.watch.stuck
        return json_answer(stuck is None, state=pipeline.state, problem=stuck)

    async def readyz() -> Answer:
        problem = obstacle()
        ready = problem is None
        if ready and pipeline.intake.waiting:
            problem = "intake waits for the store"
        partitions = sorted(each.partition for each in pipeline.lanes.partitions)
        return json_answer(ready, state=pipeline.state, problem=problem, partitions=partitions)

    async def exposition() -> Answer:
        pipeline.watch.refresh()
        metrics.ready.set(obstacle() is None)
        metrics.write_failing_seconds.set(failing_s())
        return Answer(200, metrics.content_type, metrics.exposition())

    return {"/healthz": healthz, "/readyz": readyz, "/metrics": exposition}
