"""What PostgreSQL and its drivers do in their own way: TLS, options of the URI, another driver."""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from spanferry_schemas import TracePart
from spanferry_worker.errors import FatalError, TransientError
from spanferry_worker.services.mlflow_sink import open_sink
from tests.kafka_days.certificates import Authority
from tests.services.postgres import PostgresServer
from tests.sinks.conftest import OpenSink
from tests.sinks.stores import dump, feedback, five_spans, ids, late, span, trace

pytestmark = pytest.mark.mlflow

DRIVER = re.compile(r"\+psycopg\b")
HOSTILE = "tab\tline\nreturn\rback\\slash \\N \\. 'quoted' \"twice\" %s :x \b\x01 é€\U0001f600"


@pytest.fixture
def uri(postgres_template: Callable[[], str]) -> str:
    """Of a database of the test's own."""
    return postgres_template()


@pytest.fixture
def authority(postgres: PostgresServer, tmp_path: Path) -> Iterator[Authority]:
    """Who has signed the certificate that the server shows for the time of the test."""
    made = Authority(tmp_path)
    with administrator(postgres) as raw:
        if not setting(raw, "ssl_library"):
            pytest.skip("this PostgreSQL was built without TLS")
        folder = Path(setting(raw, "data_directory"))
        for name, path in zip(("server.crt", "server.key"), made.issue("server"), strict=True):
            copy = folder / name
            copy.write_bytes(path.read_bytes())
            copy.chmod(0o600)
            owner = folder.stat()
            os.chown(copy, owner.st_uid, owner.st_gid)
        switch(raw, "SET ssl = on", "on")
        yield made
        switch(raw, "RESET ssl", "off")


def administrator(postgres: PostgresServer) -> "psycopg.Connection[tuple[str]]":
    return psycopg.connect(postgres.new_database().replace("+psycopg", ""), autocommit=True)


def setting(raw: "psycopg.Connection[tuple[str]]", name: str) -> str:
    found = raw.execute(f"SHOW {name}".encode()).fetchone()
    return found[0] if found else ""


def switch(raw: "psycopg.Connection[tuple[str]]", statement: str, until: str) -> None:
    """Change a setting of the whole server, which reads it in its own time."""
    raw.execute(f"ALTER SYSTEM {statement}".encode())
    raw.execute("SELECT pg_reload_conf()")
    deadline = time.monotonic() + 150
    while setting(raw, "ssl") != until:
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_tls_with_the_servers_name_and_its_authority(
    uri: str, authority: Authority, opened: OpenSink, tmp_path: Path
) -> None:
    safe = f"{uri}?sslmode=verify-full&sslrootcert="
    sink = await opened(f"{safe}{authority.ca}")
    await sink.write([five_spans(part=TracePart(tags={"é": "\U0001f600"}))])
    assert sink._backend is not None
    query = sa.text("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    with sink._backend.store.engine.connect() as connection:
        encrypted, version = connection.execute(query).one()
    assert encrypted
    assert version.startswith("TLSv1.")
    assert len(dump(uri)["spans"]) == 5

    foreign = Authority(tmp_path, "foreign").ca
    elsewhere = safe.replace("127.0.0.1", "localhost")
    for wrong, kind, why in (
        (f"{safe}{foreign}", TransientError, "does not answer.*certificate verify failed"),
        (f"{elsewhere}{authority.ca}", TransientError, 'does not match host name "localhost"'),
        (f"{safe}{tmp_path}/none.pem", FatalError, "none.pem. does not exist"),
    ):
        refused = open_sink(wrong, default_experiment="x")
        with pytest.raises(kind, match=why):
            await refused.open()
        await refused.close()
    assert len(dump(uri)["spans"]) == 5


async def test_a_server_without_tls_is_refused_where_it_is_asked_for(
    uri: str, opened: OpenSink, tmp_path: Path
) -> None:
    safe = f"{uri}?sslmode=verify-full&sslrootcert={Authority(tmp_path).ca}"
    sink = open_sink(safe, default_experiment="x")
    with pytest.raises(TransientError, match="server does not support SSL"):
        await sink.open()
    await sink.close()


async def test_options_of_the_uri(uri: str, opened: OpenSink) -> None:
    """Those of the server's settings, and the driver's own."""
    sink = await opened(
        f"{uri}?options=-c%20statement_timeout%3D54321%20-c%20work_mem%3D7MB"
        "&application_name=spanferry-7&connect_timeout=5"
    )
    await sink.write([five_spans()])
    assert sink._backend is not None
    names = {"statement_timeout": "54321ms", "work_mem": "7MB", "application_name": "spanferry-7"}
    with sink._backend.store.engine.connect() as connection:
        found = {name: connection.execute(sa.text(f"SHOW {name}")).scalar_one() for name in names}
    assert found == names
    assert len(dump(uri)["spans"]) == 5


async def test_psycopg2_writes_the_same_rows(
    uri: str, postgres_template: Callable[[], str], opened: OpenSink
) -> None:
    """By COPY as text, for COPY in binary is psycopg's."""
    usage = b'{"input_tokens":10,"output_tokens":5,"total_tokens":15}'
    about = {
        "mlflow.chat.tokenUsage": usage,
        "mlflow.llm.model": b'"gpt-4o-mini"',
        "mlflow.llm.provider": b'"openai"',
        "mlflow.spanInputs": json.dumps({HOSTILE: [HOSTILE, None, 1e300, -1]}).encode(),
    }
    texts = {f"key {HOSTILE}"[:60]: HOSTILE, "empty": ""}
    root, child = ids(2)
    batch = [
        five_spans(assessments=[feedback(), feedback(name="why", rationale=HOSTILE)]),
        trace(
            [
                span(root, name=HOSTILE, attributes=about),
                span(child, root, for_ms=None, attributes=about),
            ],
            part=TracePart(tags=texts, metadata=texts, client_request_id="r-1"),
        ),
        trace([span(ids(1)[0], ids(1)[0])], complete=False),
    ]
    other = DRIVER.sub("+psycopg2", postgres_template())
    written = []
    for place in (uri, other):
        sink = await opened(place, default_experiment="Default")
        assert sink._backend is not None
        assert sink._backend.bulk is not None, "straight into the tables"
        await sink.write(batch)
        once = dump(place)
        await sink.write([*batch, late(batch[1], part=TracePart(tags={"later": HOSTILE}))])
        written.append((sink._backend.store.engine.driver, once, dump(place)))
    (one, *ours), (two, *theirs) = written
    assert (one, two) == ("psycopg", "psycopg2")
    assert len(ours[0]["spans"]) == 8
    assert len(ours[0]["assessments"]) == 2
    assert HOSTILE in {row["value"] for row in ours[1]["trace_tags"]}
    assert ours == theirs


async def test_a_driver_that_is_missing_is_said_with_a_remedy_that_works(
    uri: str, opened: OpenSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    sink = open_sink(DRIVER.sub("+psycopg2", uri), default_experiment="x")
    with pytest.raises(FatalError, match=r"install spanferry\[worker\]") as caught:
        await sink.open()
    await sink.close()
    remedy = re.search(r"write (\S+)://", str(caught.value))
    assert remedy
    scheme = remedy[1]
    assert "+" in scheme, "without a driver the URI means another one in each version of SQLAlchemy"
    there = await opened(f"{scheme}://{uri.partition('://')[2]}")
    await there.write([five_spans()])
    assert len(dump(uri)["spans"]) == 5
