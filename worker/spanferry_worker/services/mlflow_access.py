"""How requests get into a tracking server: as those of MLflow's own client, from its own environment.

Credentials, TLS, workspace and plug-ins are MLflow's (`MLFLOW_TRACKING_TOKEN`, `_USERNAME`, `_PASSWORD`,
`_AUTH`, `_AWS_SIGV4`, `_SERVER_CERT_PATH`, `_INSECURE_TLS`, `_CLIENT_CERT_PATH`, `MLFLOW_WORKSPACE`,
`~/.mlflow/credentials`, request header providers); proxies and authorities are those of `requests`,
which MLflow's client is made of. A test compares what both send.
"""

import base64
import importlib
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import certifi
import requests
from mlflow.environment_variables import MLFLOW_ALLOW_HTTP_REDIRECTS
from mlflow.tracking.request_auth.registry import fetch_auth
from mlflow.tracking.request_header.registry import resolve_request_headers
from mlflow.utils.workspace_context import get_request_workspace
from mlflow.utils.workspace_utils import WORKSPACE_HEADER_NAME
from requests.auth import AuthBase

from spanferry_worker.errors import FatalError
from spanferry_worker.services.mlflow_private import add_header_provider, credentials
from spanferry_worker.text import without_userinfo

__all__ = ["Access", "Call", "Transport"]

_MASK: Final = "***"
_SECRET_CHARS_MIN: Final = 4
"""Shorter ones are not looked for in messages: they would be found in words."""
_KUBERNETES: Final = frozenset({"kubernetes", "kubernetes-namespaced"})


class Call(NamedTuple):
    """One request to the server."""

    method: str
    path: str
    """From the server's root, `/api/…`; may have a query."""
    body: bytes | None = None
    headers: Mapping[str, str] = {}
    params: Mapping[str, Any] | None = None
    repeatable: bool = True
    """Whether sending it again, where no answer came, changes nothing."""
    timeout_s: float | None = None
    """None: MLflow's `MLFLOW_HTTP_REQUEST_TIMEOUT`."""
    tries: int = 4
    """How often it is sent at most before it is given up."""


class Transport(NamedTuple):
    """How connections are made."""

    verify: ssl.SSLContext
    proxy: str | None
    follow_redirects: bool


class _ExtraHeaders:
    """A request header provider of MLflow's, so that what it sends by itself (artifacts) has them too."""

    headers: dict[str, str] = {}

    def in_context(self) -> bool:
        return bool(self.headers)

    def request_headers(self) -> dict[str, str]:
        return self.headers


_extra: Final = _ExtraHeaders()


class Access:
    """Of one server. Several threads may use it."""

    def __init__(self, uri: str, extra_headers: Mapping[str, str]) -> None:
        """`extra_headers` go to every MLflow server that this process speaks to."""
        self.shown = without_userinfo(uri)
        """The address as it may be shown."""
        self._uri = uri
        self._session = requests.Session()
        _extra.headers = dict(extra_headers)
        if extra_headers:
            add_header_provider(_extra)

    def credentials(self) -> Any:
        """Host and credentials as MLflow keeps them."""
        return credentials(self._uri)

    def prepare(self, call: Call) -> requests.PreparedRequest:
        """The request with all that lets it in."""
        creds = self.credentials()
        headers: dict[str, str] = resolve_request_headers()
        headers.update(call.headers)
        if workspace := get_request_workspace():
            headers.setdefault(WORKSPACE_HEADER_NAME, workspace)
        if authorization := _authorization(creds):
            headers["Authorization"] = authorization
        request = requests.Request(
            call.method,
            f"{self._uri}{call.path}",
            headers=headers,
            params=call.params,
            data=call.body,
            auth=_auth(creds),
        )
        prepared: requests.PreparedRequest = self._session.prepare_request(request)
        return prepared

    def transport(self) -> Transport:
        """How to connect. Raises FatalError for certificates that cannot be used."""
        given = self._given()
        proxy: str | None = requests.utils.select_proxy(self._uri, given["proxies"])
        return Transport(
            _tls_context(given["verify"], given["cert"]),
            proxy,
            bool(MLFLOW_ALLOW_HTTP_REDIRECTS.get()),
        )

    def tls_stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        """What tells whether the files of certificates have changed; None for each that is not there."""
        given = self._given()
        return tuple(_stamp(given[name]) for name in ("verify", "cert"))

    def send_by_requests(
        self, prepared: requests.PreparedRequest, timeout_s: float
    ) -> requests.Response:
        """For plug-ins that must see the answer (Kerberos, digest): only `requests` calls them back."""
        creds = self.credentials()
        given: Any = self._session.merge_environment_settings(
            prepared.url or "", {}, None, creds.verify, creds.client_cert_path
        )
        response: requests.Response = self._session.send(
            prepared,
            timeout=timeout_s,
            allow_redirects=bool(MLFLOW_ALLOW_HTTP_REDIRECTS.get()),
            **given,
        )
        return response

    def masked(self, text: str) -> str:
        """The text without our secrets, as a gateway's page may repeat them."""
        creds = self.credentials()
        secrets = [creds.password, creds.token, _authorization(creds), *_extra.headers.values()]
        secrets.append(urlsplit(self._uri).password)
        for secret in sorted(filter(None, secrets), key=len, reverse=True):
            for one in (secret, secret.rpartition(" ")[2]):
                if len(one) >= _SECRET_CHARS_MIN:
                    text = text.replace(one, _MASK)
        return text

    def _given(self) -> Any:
        """Proxies, authorities and certificate, as `requests` finds them."""
        creds = self.credentials()
        return self._session.merge_environment_settings(
            self._uri, {}, None, creds.verify, creds.client_cert_path
        )


def _authorization(creds: Any) -> str | None:
    """As MLflow's http_request has it."""
    if creds.username and creds.password and creds.auth not in _KUBERNETES:
        both = f"{creds.username}:{creds.password}".encode()
        return f"Basic {base64.standard_b64encode(both).decode()}"
    return f"Bearer {creds.token}" if creds.token else None


def _auth(creds: Any) -> AuthBase | None:
    if creds.aws_sigv4:
        try:
            module = importlib.import_module("requests_auth_aws_sigv4")
        except ImportError:
            raise FatalError(
                "MLFLOW_TRACKING_AWS_SIGV4 needs the package requests-auth-aws-sigv4: install it next "
                "to the worker"
            ) from None
        signer: AuthBase = module.AWSSigV4("execute-api")
        return signer
    found: AuthBase | None = fetch_auth(creds.auth) if creds.auth else None
    return found


def _stamp(path: bool | str | None) -> tuple[int, int, int] | None:
    if not isinstance(path, str):
        return None
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _tls_context(verify: bool | str, cert: str | None) -> ssl.SSLContext:
    """As `requests` would make it of the same arguments."""
    authorities = certifi.where() if verify is True else verify
    try:
        if not authorities:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif Path(authorities).is_dir():
            context = ssl.create_default_context(capath=authorities)
        else:
            context = ssl.create_default_context(cafile=authorities)
        if cert:
            context.load_cert_chain(cert)
    except (OSError, ssl.SSLError) as error:
        raise FatalError(
            "a certificate for the tracking server cannot be used "
            f"(MLFLOW_TRACKING_SERVER_CERT_PATH={authorities}, MLFLOW_TRACKING_CLIENT_CERT_PATH={cert}): "
            f"{error}"
        ) from error
    return context
