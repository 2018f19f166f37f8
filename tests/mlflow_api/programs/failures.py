"""Exceptions in and through spans."""

import contextlib

import mlflow

from tests.mlflow_api.registry import program


class OwnError(Exception):
    """With words of its own."""

    def __str__(self):
        return "größe is wrong"


class MuteError(Exception):
    """Cannot say what it is."""

    def __str__(self):
        raise RuntimeError("mute")


@program()
def function_fails(stage):
    @mlflow.trace
    def fails(x):
        raise ValueError("bad ünicode input")

    with contextlib.suppress(ValueError):
        fails(1)
    with contextlib.suppress(OwnError), mlflow.start_span("own"):
        raise OwnError


@program()
def error_through_several_spans(stage):
    @mlflow.trace
    def outer():
        middle()

    @mlflow.trace
    def middle():
        with mlflow.start_span("inner"):
            raise KeyError("key")

    with contextlib.suppress(KeyError):
        outer()


@program()
def error_caught_by_the_parent(stage):
    with mlflow.start_span("root") as root:
        try:
            with mlflow.start_span("child", span_type="TOOL"):
                raise RuntimeError("inner")
        except RuntimeError as error:
            root.set_outputs(str(error))


@program()
def error_with_a_cause(stage):
    def convert(text):
        try:
            return int(text)
        except ValueError as error:
            raise OwnError from error

    with contextlib.suppress(OwnError), mlflow.start_span("explicit cause"):
        convert("x")
    with contextlib.suppress(KeyError), mlflow.start_span("implicit context"):
        try:
            convert("x")
        except OwnError:
            {}["missing"]


@program()
def group_of_errors(stage):
    with contextlib.suppress(ExceptionGroup), mlflow.start_span("root"):
        raise ExceptionGroup("several", [ValueError("a"), OwnError()])


@program()
def error_without_words(stage):
    try:
        with mlflow.start_span("root"):
            raise MuteError
    except Exception as error:
        return type(error).__name__


@program()
def no_exception_at_all(stage):
    with contextlib.suppress(SystemExit), mlflow.start_span("exits"):
        raise SystemExit(3)
    with contextlib.suppress(KeyboardInterrupt), mlflow.start_span("interrupted"):
        raise KeyboardInterrupt

    @mlflow.trace
    def leaves():
        raise GeneratorExit

    with contextlib.suppress(GeneratorExit):
        leaves()


@program()
def long_message(stage):
    with contextlib.suppress(ValueError), mlflow.start_span("root"):
        raise ValueError("x" * 5_000)
