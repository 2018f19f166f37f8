"""Connections to a tracking server, made anew when certificates on the disk have changed.

Short-lived certificates are replaced while the worker runs; OpenSSL reads them once.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncGenerator
from typing import Final

import httpx
from mlflow.exceptions import MlflowException

from spanferry_worker.errors import FatalError
from spanferry_worker.services.mlflow_access import Access, Transport
from spanferry_worker.stages.requests import RequestPolicy
from spanferry_worker.telemetry import LogEvent

__all__ = ["CONNECT_S", "Connections"]

_logger = logging.getLogger(__name__)

CONNECT_S: Final = 10.0
IDLE_S: Final = 4.0
"""Idle connections are closed before the server does it: uvicorn's limit is 5 s."""
LOOK_S: Final = 10.0
"""How often it is looked whether certificates have changed, while requests go well."""


class _Pool:
    """One client, and how many requests it has under way."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.users = 0


class Connections:
    """Of one server, for the tasks of one loop."""

    def __init__(self, access: Access, policy: RequestPolicy, timeout_s: float) -> None:
        """Raises FatalError for certificates that cannot be used."""
        self._access = access
        self._policy = policy
        self._timeout_s = timeout_s
        self._stamps = access.tls_stamps()
        self._pool = _Pool(self._made(access.transport()))
        self._looked_s = -math.inf
        self._renewal = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncGenerator[httpx.AsyncClient]:
        """For one request."""
        if time.monotonic() - self._looked_s >= LOOK_S:
            await self.look()
        pool = self._pool
        pool.users += 1
        try:
            yield pool.client
        finally:
            pool.users -= 1
            if pool is not self._pool and not pool.users:
                await pool.client.aclose()

    async def look(self) -> None:
        """Take other certificates where there are others, for all requests from now on.

        What cannot be used, as a file that is half written, is left until it has changed again.
        """
        async with self._renewal:
            self._looked_s = time.monotonic()
            try:
                stamps = await asyncio.to_thread(self._access.tls_stamps)
                if stamps == self._stamps:
                    return
                self._stamps = stamps
                transport = await asyncio.to_thread(self._access.transport)
            except (FatalError, MlflowException, OSError) as error:
                _logger.warning(
                    "connections keep the certificates that they have: %s",
                    error,
                    extra=LogEvent.STORE_CERTIFICATES(),
                )
                return
            old, self._pool = self._pool, _Pool(self._made(transport))
            _logger.info(
                "certificates for %s have changed and were read again",
                self._access.shown,
                extra=LogEvent.STORE_CERTIFICATES(),
            )
            if not old.users:
                await old.client.aclose()

    async def aclose(self) -> None:
        """Close what is open."""
        await self._pool.client.aclose()

    def _made(self, transport: Transport) -> httpx.AsyncClient:
        at_once = self._policy.requests_at_once_max
        return httpx.AsyncClient(
            verify=transport.verify,
            proxy=transport.proxy,
            follow_redirects=transport.follow_redirects,
            limits=httpx.Limits(
                max_connections=at_once, max_keepalive_connections=at_once, keepalive_expiry=IDLE_S
            ),
            timeout=httpx.Timeout(self._timeout_s, connect=CONNECT_S),
            trust_env=False,
        )
