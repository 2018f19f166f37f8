"""Where spanferry stores or returns something else than MLflow, on purpose.

docs/mlflow-differences.md shows this list to users; a test holds the two together.
"""

import re
import textwrap
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from tests.mlflow_api.comparison import Difference

__all__ = ["INTENDED", "Intended", "as_markdown", "reason_for"]

BOTH = ("plain", "accelerated")
LIGHT = ("accelerated",)


class Intended(NamedTuple):
    """One difference, for the programs and places where it shows."""

    what: str
    """For users: what is so, and why."""
    programs: tuple[str, ...]
    """Names; `*` stands for any."""
    modes: tuple[str, ...] = BOTH
    places: str = ".*"
    """A regular expression for the paths of differences."""
    native: str = ".*"
    """A regular expression for what is there natively, as repr() shows it."""
    always: bool = True
    """Whether every run shows it."""
    ours: str = ""
    """A regular expression for what is ours, where it depends on the run; else the golden file says."""

    def covers(self, program: str, mode: str, difference: Difference) -> bool:
        """Whether this is why something differs."""
        return (
            mode in self.modes
            and any(fnmatchcase(program, name) for name in self.programs)
            and re.fullmatch(self.places, difference.path) is not None
            and re.fullmatch(self.native, repr(difference.native), re.DOTALL) is not None
            and (not self.ours or re.fullmatch(self.ours, repr(difference.ours)) is not None)
        )


INTENDED: tuple[Intended, ...] = (
    Intended(
        "A trace is stored when its root ends. MLflow's SDK keeps it back until all of its spans "
        "have ended, and stores nothing of it where one never does.",
        ("generator_left_early", "child_that_never_ends", "client_leaves_a_span_open"),
        places="traces/[^/]*",
        native="<not there>",
    ),
    Intended(
        "What is open while tracing is disabled, or while the experiment is changed, is stored "
        "whole. MLflow's SDK shuts its processor down and loses the roots.",
        ("off_while_open", "experiment_set_in_the_middle", "experiment_set_inside_a_span"),
        places="traces/[^/]*",
    ),
    Intended(
        "A span with a `trace_destination` inside another trace stays in that trace. So it does "
        "in MLflow, whose SDK then cannot send the trace.",
        ("destination_of_a_child",),
        places="traces/:here",
        native="<not there>",
    ),
    Intended(
        "Names of tags and of metadata that are no text become text. MLflow's SDK cannot send a "
        "trace with such a name.",
        ("update_with_a_key_that_is_no_text", "feedback_with_keys_that_are_no_text"),
        places="traces/.*",
    ),
    Intended(
        "Feedback on a trace that is open, or on its way, can be overridden at once. MLflow's SDK "
        "asks the server for it, which does not have it.",
        ("feedback_overridden_while_open",),
        places="returned|traces/.*/assessments",
    ),
    Intended(
        "A tag or feedback for a trace that does not exist is no error in the app, nor is taking away "
        "a tag that a stored trace does not have. The worker finds out, and puts it into the dead "
        "letters.",
        ("wrong_tags",),
        places=r"returned\[3\]",
    ),
    Intended(
        "Whole numbers of more than 64 bits are stored as text. MLflow's server refuses spans "
        "with such numbers, and the SDK puts them into a file beside.",
        ("very_large_numbers",),
        places="traces/.*",
    ),
    Intended(
        "Values nested deeper than MLflow's server reads are stored as text. It refuses the spans, "
        "and the SDK puts them into a file beside.",
        ("values_deeper_than_the_server_reads",),
        places="traces/.*",
    ),
    Intended(
        "NUL characters become U+FFFD, because PostgreSQL holds none.",
        ("unicode_values",),
        places="traces/.*",
    ),
    Intended(
        "Half a surrogate pair becomes `?`. MLflow's SDK cannot send a trace with one.",
        ("lone_surrogates",),
        places="traces/.*",
    ),
    Intended(
        "Bytes among the attributes of an event are stored in base64, not as `str()` shows them.",
        ("events_with_odd_attributes",),
        places="traces/.*/bytes",
    ),
    Intended(
        "Spans that have ended of a trace that goes on are stored with the trace's name, user, source "
        "and the like. MLflow stores the spans alone.",
        ("root_that_never_ends",),
        places="traces/.*",
    ),
    Intended(
        "A span that starts when the root of its trace has ended belongs to the trace. Older MLflows "
        "drop it.",
        ("ended_explicitly_and_twice", "child_starts_after_its_root_ended"),
        places="traces/.*|returned",
        always=False,
    ),
    Intended(
        "Ending a trace a second time has no effect. Older MLflows raise MlflowException.",
        ("client_does_wrong",),
        places=r"returned\[0\]\[5\]",
        always=False,
    ),
    Intended(
        "Tokens are added up as the worker's MLflow does it, not as the app's.",
        ("token_usage_rolled_up",),
        places="traces/.*/mlflow.trace.tokenUsage",
        always=False,
    ),
    Intended(
        "The duration of a trace is its root's. Where other spans end later, or where a trace is "
        "added to another, MLflow's depends on which of its writes comes last.",
        ("*",),
        places="traces/.*/info/times/(starts with|takes as long as) the root",
        native="False",
        ours="True",
        always=False,
    ),
    Intended(
        "The cost of a trace counts every span once. MLflow's SDK sends the spans of a trace in "
        "parts, and on SQLite one part may go uncounted.",
        ("lang*",),
        places="traces/.*/mlflow.trace.cost",
        ours=r"'\{.*\"total_cost\": .*",
        always=False,
    ),
    Intended(
        "Arguments for which MLflow raises MlflowException are logged once and ignored.",
        ("wrong_status", "wrong_links", "wrong_exception", "update_wrongly"),
        LIGHT,
    ),
    Intended(
        "NaN and infinity are stored as null; bytes in base64; dates and times in ISO 8601; sets "
        "and numpy's arrays as lists; enums by their values, as keys of dicts too: what JSON "
        "libraries make of them, not what `str()` shows.",
        (
            *("not_a_number", "bytes_of_a_file", "dates_and_times", "enums", "numpy_values"),
            *("sets_and_other_containers", "keys_that_are_no_text"),
        ),
        LIGHT,
    ),
    Intended(
        "Values that hold themselves are stored as `repr()` shows them. MLflow raises "
        "RecursionError into the app.",
        ("values_that_hold_themselves",),
        LIGHT,
    ),
    Intended(
        "An exception whose `__str__` fails is recorded, and goes on as it is. MLflow raises the "
        "error of its `__str__` instead.",
        ("error_without_words",),
        LIGHT,
    ),
    Intended(
        "An error that is recorded as a text is of the type `Exception`, also where an older MLflow "
        "says `str`.",
        ("record_exception", "log_levels"),
        LIGHT,
        places=r"traces/.*/status\[1\]",
        native="'str: .*",
        always=False,
    ),
    Intended(
        "`MLFLOW_TRACE_MAX_ATTACHMENT_SIZE` counts where base64 is taken out of inputs and outputs: "
        "in the worker. For explicit attachments the app's counts.",
        ("files_that_are_too_large",),
        LIGHT,
        places="traces/.*",
    ),
    Intended(
        "Fields of dataclasses that an instance does not hold itself (defaults that stand in the "
        "class) are left out.",
        ("pydantic_ai_agent",),
        LIGHT,
        places="traces/.*",
    ),
    Intended(
        "The headers for another service include `tracestate`: by it the worker knows how many "
        "services belong to a trace.",
        ("headers_to_another_service",),
        LIGHT,
        places="returned/headers",
    ),
    Intended(
        "Previews show numbers as 1e-7, not as 1e-07.",
        ("plain_values",),
        LIGHT,
        places="traces/.*/info/.*",
    ),
    Intended(
        '`to_dict()` of an open span shows JSON without spaces: `{"a":1}`.',
        ("to_dict_while_open",),
        LIGHT,
        places="returned/attributes/mlflow.spanInputs",
    ),
)


def reason_for(program: str, mode: str, difference: Difference) -> Intended | None:
    """The first reason in the list."""
    return next((one for one in INTENDED if one.covers(program, mode, difference)), None)


def as_markdown(intended: Sequence[Intended]) -> str:
    """The list as docs/mlflow-differences.md has it."""
    return "".join(
        f"\n{heading}\n\n"
        + "".join(wrapped(one.what) for one in intended if (one.modes == BOTH) == in_both)
        for heading, in_both in (("## Always", True), ("## With light spans", False))
    )


def wrapped(text: str) -> str:
    """One entry of the list."""
    options = {"initial_indent": "- ", "subsequent_indent": "  "}
    return textwrap.fill(text, 100, break_on_hyphens=False, **options) + "\n"
