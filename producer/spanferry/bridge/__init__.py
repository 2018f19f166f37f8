"""MLflow's own tracing API over Kafka: what stands in MLflow's place while spanferry is enabled.

`spanferry.bridge` itself knows no MLflow; `installing` and what it imports are loaded once the app
has imported MLflow.
"""

from spanferry.bridge.arrival import hand_over_what_has_ended, switch_off, switch_on
from spanferry.bridge.autologging import autolog

__all__ = ["autolog", "hand_over_what_has_ended", "switch_off", "switch_on"]
