"""Everything of MLflow's that has no public name, in one place: what to check for a new version."""
# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false

import importlib
import json
import pkgutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import requests
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from mlflow.entities import Link, LiveSpan, Span, TraceInfo
from mlflow.store.db import utils as db_utils
from mlflow.store.tracking import sqlalchemy_store
from mlflow.store.tracking.rest_store import RestStore
from mlflow.store.tracking.utils.trace_analytics import (
    bounded_model_dimension,
    validate_session_id,
)
from mlflow.tracing.attachments import Attachment
from mlflow.tracing.constant import GenAiSemconvKey, SpanAttributeKey
from mlflow.tracing.otel import translation
from mlflow.tracing.utils import truncation
from mlflow.tracking._tracking_service import utils as tracking_utils
from mlflow.tracking.request_header import registry as header_registry
from mlflow.utils import rest_utils, validation
from mlflow.utils.proto_json_utils import parse_dict

from spanferry_worker.stages.requests import retry_after_s

__all__ = [
    "OWNER_ATTRIBUTES",
    "TRANSLATORS",
    "AttachmentHolder",
    "RestStoreOver",
    "add_header_provider",
    "archival_data",
    "attribute_texts",
    "check_workspace",
    "create_engine",
    "credentials",
    "download",
    "has_all_tables",
    "initialise_database",
    "is_empty_database",
    "knows_revision",
    "latest_revision",
    "leave_long_waits",
    "model_dimension",
    "open_store",
    "rest_response",
    "schema_revision",
    "session_of",
    "set_links",
    "translate_loaded_span",
    "translate_span_when_storing",
    "translator_modules",
    "truncated_preview",
    "user_of",
    "validate_model_name",
]

TRANSLATORS: Final = translation.__name__
"""Where MLflow reads OpenTelemetry's dialects."""

translate_span_when_storing: Final = translation.translate_span_when_storing
"""A span's dict as the store keeps it."""
translate_loaded_span: Final = translation.translate_loaded_span
"""A stored span's dict as the store gives it to readers; changes what it is given."""

OWNER_ATTRIBUTES: Final = (
    SpanAttributeKey.SESSION_ID,
    GenAiSemconvKey.CONVERSATION_ID,
    "user.id",
)
"""What session_of and user_of read."""

_REMEMBERED_CHARS: Final = 300
_MESSAGES: Final = ('"messages"', '"choices"', '"input"', '"output"', "\\u")
"""Where MLflow looks for messages in an object; an escape may hide one of them."""
_store: Any = sqlalchemy_store
_db: Any = db_utils
_tracking: Any = tracking_utils
_validation: Any = validation


class AttachmentHolder(LiveSpan):
    """Stands in for a live span, so that MLflow's own walk can go over a value.

    `name` gives the id of an attachment by its content. `refusals` says what was above MLflow's
    limit (MLFLOW_TRACE_MAX_ATTACHMENT_SIZE) and is therefore left out.
    """

    def __init__(self, trace_id: str, name: Callable[[bytes], str]) -> None:
        # Not LiveSpan's own: there is no OpenTelemetry span behind this one.
        self._of = trace_id
        self._name = name
        self._attachments = {}
        self.refusals: list[str] = []

    @cached_property
    def trace_id(self) -> str:
        return self._of

    def take(self, value: Any) -> Any:
        """The value with references in place of base64."""
        return self._extract_attachments(value, extract_base64=True)

    def found(self) -> list[Attachment]:
        """What the references refer to."""
        return list(self._attachments.values())

    def record_exception(self, exception: str | Exception) -> None:
        self.refusals.append(str(exception))

    def _is_recording(self) -> bool:
        return True

    def _store_attachment(self, attachment: Attachment) -> str:
        attachment._id = self._name(attachment.content_bytes)
        reference: str = super()._store_attachment(attachment)
        return reference


def attribute_texts(span: Span) -> Mapping[str, str]:
    """A span's attributes as the JSON texts that they are stored as."""
    texts: Any = span._span.attributes or {}
    return dict(texts)


def otlp_kind(span: Span) -> int:
    """OpenTelemetry's kind of a span, by OTLP's number."""
    number: int = span._span.kind.value
    return number + 1


def set_links(span: Span, links: Sequence[Link]) -> None:
    """Give a span its links, as Span.from_dict does."""
    span._links = list(links)


def translator_modules() -> list[ModuleType]:
    """The code of all translators."""
    return [
        importlib.import_module(f"{TRANSLATORS}.{module.name}")
        for module in pkgutil.iter_modules(translation.__path__)
    ]


def model_dimension(attributes: Mapping[str, Any], key: str) -> str | None:
    """Model or provider as the store's column has it."""
    value = attributes.get(key)
    if isinstance(value, str) and len(value) <= _REMEMBERED_CHARS:
        return _dimension(value)
    return None if value is None else bounded_model_dimension(_store._try_parse_json_string(value))


@lru_cache(1_000)
def _dimension(text: str) -> str | None:
    dimension: str | None = bounded_model_dimension(_store._try_parse_json_string(text))
    return dimension


def session_of(attributes: Mapping[str, Any]) -> str | None:
    """The session that a span's attributes name. Raises MlflowException for one that is too long."""
    named = attributes.get(SpanAttributeKey.SESSION_ID) or attributes.get(
        GenAiSemconvKey.CONVERSATION_ID
    )
    return validate_session_id(_store._try_parse_json_string(named)) if named else None


def user_of(attributes: Mapping[str, Any]) -> str | None:
    """The user that a span's attributes name."""
    named = attributes.get("user.id")
    user: str | None = _store._try_parse_json_string(named) if named else None
    return user


def truncated_preview(text: str, role: str) -> str | None:
    """What lists show of a root's inputs (role `user`) or outputs (`assistant`), JSON texts.

    What holds no messages is not decoded.
    """
    if text.startswith(("[", '"')) or not any(name in text for name in _MESSAGES):
        chars: int = truncation._get_max_length()
        return text if len(text) <= chars else f"{text[: chars - 3]}..."
    preview: str | None = truncation._get_truncated_preview(text, role=role)
    return preview


def credentials(uri: str) -> Any:
    """Host and credentials of a tracking server, from MLflow's own environment variables."""
    return _tracking.get_default_host_creds(uri)


def validate_model_name(name: str) -> None:
    """Raises MlflowException for a name that no LoggedModel may have."""
    _validation._validate_logged_model_name(name)


def open_store(uri: str, artifact_root: str) -> Any:
    """MLflow's own store of a database; the one that knows workspaces where MLflow's are on."""
    return _tracking._get_sqlalchemy_store(uri, artifact_root)


def check_workspace(store: Any) -> None:
    """Raises MlflowException where workspaces are on and none is named, or one that is not there."""
    if store.supports_workspaces:
        workspace = store._get_active_workspace()
        store._get_workspace_provider_instance().get_workspace(workspace)


def create_engine(uri: str) -> sa.Engine:
    """An engine with MLflow's pool and TLS settings; connects to nothing yet."""
    engine: sa.Engine = _db.create_sqlalchemy_engine(uri)
    return engine


def is_empty_database(engine: sa.Engine) -> bool:
    """Whether there is no table at all, but for alembic's."""
    return bool(_db._is_empty_database(engine))


def has_all_tables(engine: sa.Engine) -> bool:
    """Whether every table of the installed MLflow is there."""
    return bool(_db._all_tables_exist(engine))


def initialise_database(engine: sa.Engine) -> None:
    """Create MLflow's tables, one process of this machine at a time."""
    _db._safe_initialize_tables(engine)


def schema_revision(engine: sa.Engine) -> str | None:
    """The revision that the database says it has."""
    revision: str | None = _db._get_schema_version(engine)
    return revision


def latest_revision() -> str:
    """The revision that the installed MLflow needs."""
    revision: str = _db._get_latest_schema_revision()
    return revision


def knows_revision(revision: str) -> bool:
    """Whether the installed MLflow has the revision among its migrations."""
    try:
        ScriptDirectory.from_config(_db._get_alembic_config(db_url="")).get_revision(revision)
    except CommandError:
        return False
    return True


def archival_data(store: Any, trace_id: str) -> tuple[TraceInfo, int, list[str]] | None:
    """A trace's record, its generation and its rows' `content`; None where its spans may not go into the
    archive: they are there, or the trace goes on."""
    found = store._load_trace_archival_data(trace_id)
    if found is None:
        return None
    info, generation, rows = found
    return info, generation, [content for _, content in rows]


def download(repository: Any, name: str, path: Path) -> None:
    """One file of an artifact store. Raises whatever the store's client raises."""
    repository._download_file(name, str(path))


class RestStoreOver(RestStore):
    """MLflow's store for a tracking server, over a transport of ours.

    `ask` takes method, path, and what MLflow asks for as JSON (a GET has it in its query); it gives a
    `requests.Response`.
    """

    def __init__(
        self,
        get_host_creds: Callable[[], Any],
        ask: Callable[[str, str, str | None], requests.Response],
    ) -> None:
        super().__init__(get_host_creds)  # type: ignore[no-untyped-call]
        self._ask = ask

    def _call_endpoint(
        self,
        api: Any,
        json_body: str | None = None,
        endpoint: str | None = None,
        retry_timeout_seconds: int | None = None,  # noqa: ARG002
        response_proto: Any = None,
    ) -> Any:
        self._validate_workspace_support_if_specified()
        table = self._V3_METHOD_TO_INFO if api in self._V3_APIS else self._METHOD_TO_INFO
        usual, method = table[api]
        path = endpoint or usual
        response = self._ask(method, path, json_body)
        rest_utils.verify_rest_response(response, path)
        message = response_proto or api.Response()
        if response.status_code != 204:
            parse_dict(json.loads(response.text), message)
        return message


def rest_response(status: int, text: str, *, verify_for: str = "") -> requests.Response:
    """An answer as MLflow's client wants to see it. With `verify_for`, the path that was asked, raises
    MlflowException for one that is an error."""
    response = requests.Response()
    response.status_code = status
    response.encoding = "utf-8"
    response._content = text.encode()
    if verify_for:
        rest_utils.verify_rest_response(response, verify_for)
    return response


def add_header_provider(provider: Any) -> None:
    """Have MLflow send the headers of this provider, too, with all its requests to its server."""
    providers: Any = header_registry._request_header_provider_registry
    if provider not in list(providers):
        providers.register(lambda: provider)


class _LongWaits:
    """Has Databricks' SDK give up where it would sleep for long in the thread that asks."""

    def __init__(self) -> None:
        self.most_s = 0.0
        self.told: Callable[[float], None] = lambda _: None

    def customize_error(self, response: requests.Response, kwargs: dict[str, Any]) -> None:
        if response.status_code not in {429, 503}:
            return
        wait_s = retry_after_s(response.headers.get("Retry-After"), time.time_ns() / 1e9)
        if wait_s is not None and wait_s > self.most_s:
            kwargs.pop("retry_after_secs", None)
            self.told(wait_s)


_long_waits: Final = _LongWaits()


def leave_long_waits(most_s: float, told: Callable[[float], None]) -> None:
    """Let no request of Databricks' SDK sleep for more than `most_s` at once because its workspace asks
    for that (`Retry-After`): `told` gets the seconds, and the request fails. For clients made from now on, of
    an SDK that can be told so."""
    parser: Any = importlib.import_module("databricks.sdk.errors.parser")
    _long_waits.most_s = most_s
    _long_waits.told = told
    customizers: list[Any] = getattr(parser, "_error_customizers", [_long_waits])
    if _long_waits not in customizers:
        customizers.append(_long_waits)
