"""Logs: text for people, or one JSON object a line for machines. Fields come in `extra`.

Every line of the worker has an event, whose name stays as it is when its message gets better words.
"""

import logging
import sys
import time
from enum import StrEnum
from typing import Final, Literal

import orjson

__all__ = ["JsonFormatter", "LogEvent", "TextFormatter", "set_up_logging"]

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_EVENT: Final = "event"
_NOISY: Final = ("aiokafka", "alembic", "urllib3", "httpx", "httpcore")


class LogEvent(StrEnum):
    """What a line is about, in the field `event`: the part of the worker, and what happened there.

    docs/operations.md has the list, made from the strings below the members.
    """

    WORKER_LISTENING = "worker.listening"
    """Health and metrics are served at this address."""
    WORKER_WAITING = "worker.waiting"
    """The store, the dead letters' topic or Kafka is not there; it is tried again."""
    WORKER_MEMORY = "worker.memory"
    """What the process takes before it reads anything, and what it may hold beside that."""
    WORKER_STOPPING = "worker.stopping"
    """SIGTERM or SIGINT came: what is decided is written and committed."""
    WORKER_DRAIN_INCOMPLETE = "worker.drain_incomplete"
    """Not all was written in `process.stop_s`; the next owner reads it again."""
    WORKER_CLOSE_TIMEOUT = "worker.close_timeout"
    """Connections did not close in time and are left as they are."""
    WORKER_STOP_CUT = "worker.stop_cut_short"
    """The stop took too long; nothing uncommitted is lost."""
    WORKER_FATAL = "worker.fatal"
    """It cannot go on; the message says the remedy. Exit code 3."""
    CONSUME_ASSIGNED = "consume.partitions_assigned"
    """These partitions are this worker's now."""
    CONSUME_REVOKED = "consume.partitions_revoked"
    """These partitions go to another worker; `all_written` says whether all decided is stored."""
    CONSUME_PAUSED = "consume.paused"
    """The worker holds as much as it may and waits for the store."""
    CONSUME_FAILED = "consume.failed"
    """Kafka could not be read; it is tried again."""
    CONSUME_OFFSETS_BACK = "consume.offsets_went_back"
    """Kafka has lost the end of a partition; it is read anew from what is committed."""
    CONSUME_OFFSETS_UNKNOWN = "consume.offsets_unknown"
    """Kafka did not say what is committed."""
    CONSUME_STALLED = "consume.stalled"
    """Nothing comes from Kafka, or from its group, for `consume.stall_s`; the worker joins it anew."""
    CONSUME_LAG_UNKNOWN = "consume.lag_unknown"
    """Kafka did not say how much waits (level debug)."""
    LEDGER_UNKEPT = "ledger.unkept"
    """The account of records cannot be read or written; traces flow without it. Said once."""
    LEDGER_HOLE = "ledger.hole"
    """Records of `partition` from `begin` to before `end` were committed while no ledger could be written:
    what became of them is counted by nobody."""
    SAMPLE_POLICY = "sample.policy_loaded"
    """The sampling policy was read again: `rules` are in force, or nothing has changed."""
    SAMPLE_POLICY_REFUSED = "sample.policy_refused"
    """The sampling policy was read again and is wrong: the old one stays."""
    SAMPLE_RESTART = "sample.restart_needed"
    """The settings file has changes that only a restart brings into force."""
    SAMPLE_NOT_RESTORED = "sample.not_restored"
    """Feedback came for traces that were cut or dropped, and Kafka could not be read: they stay so."""
    SAMPLE_NOT_RECALLED = "sample.not_recalled"
    """MLflow does not say what was decided on traces that late spans or feedback came for; they wait 10 s."""
    SAMPLE_UNWRITTEN = "sample.drops_unwritten"
    """The topic of dropped traces cannot be used; what comes late for these will not follow. Said once."""
    SAMPLE_FLEET = "sample.fleet_unavailable"
    """The topic that workers agree by cannot be used; decisions go on by what was known. Said once."""
    ASSEMBLE_CUT = "assemble.payloads_cut"
    """Open traces take more than `assemble.bytes_max`: payloads of giants are cut to previews."""
    WRITE_FAILED = "write.failed"
    """The store is away or busy; the batch is tried again, nothing is lost."""
    WRITE_UNEXPECTED = "write.unexpected_error"
    """The store raised what it should not; the trace that causes it is looked for. With a traceback."""
    WRITE_STALLED = "write.stalled"
    """A write has not returned for `consume.stall_s`; /healthz says no."""
    WRITE_SLOWLY = "write.through_mlflow"
    """Traces are stored through MLflow's own code, ten times as slowly; the message says why."""
    WRITE_PARTLY = "write.partly"
    """Traces are stored, but not all of them as the app wanted; the message says what is missing."""
    WRITE_DETAIL = "write.detail"
    """Something small was decided while writing (level debug)."""
    STORE_CREATED = "store.created"
    """Tables, an experiment or a model were made."""
    STORE_REFUSED = "store.refused"
    """MLflow refuses the worker's credentials; traces wait until it does not."""
    STORE_VERSION = "store.version"
    """The server's MLflow is not the one that this worker knows."""
    STORE_CERTIFICATES = "store.certificates"
    """Certificates for the tracking server have changed: they were read again, or cannot be used."""
    STORE_CLOSE_FAILED = "store.close_failed"
    """A connection to MLflow was left behind."""
    COMMIT_FAILED = "commit.failed"
    """Offsets could not be committed; it is tried again."""
    COMMIT_LOST = "commit.partitions_lost"
    """The partitions went to another worker meanwhile; it reads again what was not committed."""
    COMMIT_UNNOTED = "commit.unnoted"
    """Kafka does not take what is to be noted beside offsets. Said once."""
    COMMIT_TIMEOUT = "commit.timeout"
    """The last commit took too long; some traces will be written again, which changes nothing."""
    DEAD_LETTER_HELD = "dead_letter.held"
    """Most would be dead, or it is too early to tell: it waits for `dead_letters.hold_s`, said once each."""
    DEAD_LETTER_SENT = "dead_letter.sent"
    """A record could not be read or stored, once for each reason and message (the rest: debug)."""
    DEAD_LETTER_FAILED = "dead_letter.failed"
    """Dead letters could not be sent; it is tried again, their offsets wait."""
    DEAD_LETTER_GONE = "dead_letter.original_gone"
    """Kafka had removed the original records; the letter is rebuilt from the trace."""
    SUPERVISOR_ENDED = "supervisor.process_ended"
    """A worker process ended by itself and is replaced."""
    SUPERVISOR_KILLED = "supervisor.process_killed"
    """A worker process did not stop in time and was killed; nothing uncommitted is lost."""

    def __call__(self, **fields: object) -> dict[str, object]:
        """The argument `extra` of a log call: this event, and what else a machine should find."""
        return {_EVENT: self.value, **fields}


def set_up_logging(log_format: Literal["text", "json"], log_level: str) -> None:
    """Send the process's logs to stderr; called once, by whoever owns the process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(log_level.upper())
    for name in _NOISY:
        # aiokafka reports as errors what it then retries by itself; ours say what comes of it.
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, event, message, fields, a traceback if any."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class TextFormatter(logging.Formatter):
    """Time, level, message, and the fields as key=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base's name
        fields = " ".join(
            f"{name}={value}" for name, value in _fields(record).items() if name != _EVENT
        )
        text = super().formatMessage(record)
        return f"{text}  [{fields}]" if fields else text


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}
