"""What one worker's /healthz, /readyz and /metrics say."""

from spanferry_worker.ports import Clock
from spanferry_worker.runtime.health import Answer, Page, json_answer
from spanferry_worker.runtime.pipeline import Pipeline
from spanferry_worker.services.metrics import Metrics

__all__ = ["worker_pages"]


def worker_pages(pipeline: Pipeline, metrics: Metrics, clock: Clock) -> dict[str, Page]:
    """Healthy: a restart would not help. Ready: traces flow."""

    async def healthz() -> Answer:
        stuck = pipeline.watch.stuck
        return json_answer(stuck is None, state=pipeline.state, problem=stuck)

    async def readyz() -> Answer:
        since_ms = pipeline.writer.failing_since_ms
        problem = None
        if since_ms is not None:
            problem = f"the store has been failing for {(clock.now_ms() - since_ms) / 1000:.0f} s"
        elif pipeline.intake.waiting:
            problem = "intake waits for the store"
        ready = pipeline.state == "ready" and since_ms is None
        partitions = sorted(each.partition for each in pipeline.lanes.partitions)
        return json_answer(ready, state=pipeline.state, problem=problem, partitions=partitions)

    async def exposition() -> Answer:
        return Answer(200, metrics.content_type, metrics.exposition())

    return {"/healthz": healthz, "/readyz": readyz, "/metrics": exposition}
