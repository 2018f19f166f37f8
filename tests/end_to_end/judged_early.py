"""An app whose answers are judged before they are there: feedback goes first, its trace later.

`python -m tests.end_to_end.judged_early BOOTSTRAP TOPIC EXPERIMENT` sends feedback on a trace that is still
open, on a request that has not come, on a request of nobody and on a trace of nobody. It prints how many
records that were, waits for a line, and sends the traces of the first two.
"""

import sys

import spanferry

__all__ = ["NOBODYS_TRACE"]

NOBODYS_TRACE = "tr-" + "0badcafe" * 4


def main(bootstrap: str, topic: str, experiment: str) -> None:
    """Judge, wait, answer."""
    spanferry.enable(bootstrap_servers=bootstrap, topic=topic, experiment=experiment)
    with spanferry.start_span("by trace") as root:
        spanferry.log_feedback(trace_id=root.trace_id, name="early", value="by trace")
        spanferry.log_feedback(client_request_id="asked", name="early", value="by request")
        spanferry.log_feedback(client_request_id="nobody", name="early", value="of nobody")
        spanferry.log_feedback(trace_id=NOBODYS_TRACE, name="early", value="of nobody")
        assert spanferry.flush(100)
        print(spanferry.stats().records_sent, flush=True)
        sys.stdin.readline()
    with spanferry.start_span("by request"):
        spanferry.update_current_trace(client_request_id="asked")
    assert spanferry.flush(100)


if __name__ == "__main__":
    main(*sys.argv[1:])
