"""What MySQL and MariaDB do in their own way, on a real MariaDB."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from spanferry_schemas import TracePart
from spanferry_worker.errors import FatalError, PoisonError, TransientError
from spanferry_worker.services import mlflow_insert
from spanferry_worker.services.mlflow_mysql import Literals
from spanferry_worker.services.mlflow_probe import probe
from spanferry_worker.services.mlflow_sink import open_sink
from tests.services.mariadb import MariaDbServer
from tests.sinks.conftest import OpenSink
from tests.sinks.stores import dump, feedback, five_spans, ids, late, span, trace
from tests.sinks.test_assessments import by_request

pytestmark = pytest.mark.mlflow

MANY_ROWS = mlflow_insert._ManyRows


@pytest.fixture
def uri(mariadb_template: Callable[[], str]) -> str:
    """Of a database of the test's own."""
    return mariadb_template()


@pytest.fixture
def small_packets(mariadb: MariaDbServer) -> Iterator[int]:
    """For connections that are made from now on."""
    size = 1024 * 1024
    ((usual,),) = mariadb.execute("SELECT @@GLOBAL.max_allowed_packet")
    mariadb.execute(f"SET GLOBAL max_allowed_packet = {size}")
    yield size
    mariadb.execute(f"SET GLOBAL max_allowed_packet = {usual}")


@pytest.mark.chaos
async def test_a_server_that_dies_within_a_batch(
    uri: str, mariadb: MariaDbServer, opened: OpenSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = await opened(uri)
    await sink.write([five_spans()])
    before = dump(uri)
    batch = [five_spans(assessments=[feedback()]) for _ in range(200)]
    write = MANY_ROWS.write

    def killing(self: Any, *arguments: Any) -> None:
        write(self, *arguments)
        if self._table == "spans":
            mariadb.kill()

    monkeypatch.setattr(MANY_ROWS, "write", killing)
    with pytest.raises(TransientError, match=r"2006|2013"):
        await sink.write(batch)
    monkeypatch.undo()
    with pytest.raises(TransientError):
        await sink.write(batch)
    await asyncio.to_thread(mariadb.start)
    assert dump(uri) == before
    await sink.write(batch)
    once = dump(uri)
    assert len(once["spans"]) == len(before["spans"]) + 1000
    await sink.write(batch)
    assert dump(uri) == once


async def test_a_lock_that_is_held_too_long(uri: str, opened: OpenSink) -> None:
    sink = await opened(f"{uri}?init_command=SET%20innodb_lock_wait_timeout%3D1")
    one = five_spans()
    await sink.write([one])
    engine = sa.create_engine(uri)
    with engine.connect() as connection:
        connection.execute(sa.text("DELETE FROM trace_info"))
        with pytest.raises(TransientError, match="1205"):
            await sink.write([one, late(one, part=TracePart(tags={"a": "b"}))])
        connection.rollback()
    engine.dispose()
    await sink.write([one, late(one, part=TracePart(tags={"a": "b"}))])


@pytest.mark.parametrize("bulk", [True, False])
async def test_more_than_a_packet(
    bulk: bool, uri: str, small_packets: int, opened: OpenSink
) -> None:
    """Each span goes in whose row fits, however many there are; the others say what to do."""
    sink = await opened(uri, bulk=bulk)
    root, *children = ids(30)
    text = json.dumps({"quoted": '"' * 20_000}).encode()
    attributes = {"mlflow.spanInputs": text}
    spans = [span(child, root, attributes=attributes) for child in children]
    wide = trace([span(root), *spans])
    await sink.write([wide, five_spans()])
    await sink.write(
        [late(wide, spans=[span(child, root, attributes=attributes) for child in ids(20)])]
    )
    rows = dump(uri)["spans"]
    assert sum(len(row["content"]) for row in rows) > 2 * small_packets

    large = {"mlflow.spanInputs": json.dumps("x" * small_packets).encode()}
    for one in (
        trace([span(ids(1)[0], attributes=large)]),
        late(wide, spans=[span(ids(1)[0], root, attributes=large)]),
    ):
        with pytest.raises(
            PoisonError, match="max_allowed_packet is 1,048,576: raise it and replay"
        ):
            await sink.write([one])
    assert len(dump(uri)["spans"]) == len(rows)


@pytest.mark.parametrize("bulk", [True, False])
async def test_keys_that_are_the_same_to_the_database(
    bulk: bool, uri: str, opened: OpenSink
) -> None:
    """Which MLflow cannot store: without a word of ours the batch would be repeated for ever."""
    sink = await opened(uri, bulk=bulk)
    for part in (
        TracePart(tags={"Tier": "1", "tier": "2"}),
        TracePart(metadata={"caf\u00e9": "1", "cafe": "2"}),
    ):
        with pytest.raises(PoisonError, match="capitals from small letters"):
            await sink.write([five_spans(part=part)])
    await sink.write([five_spans(part=TracePart(tags={"Tier": "1", "tiers": "2"}))])
    assert len(dump(uri)["trace_info"]) == 1


@pytest.mark.parametrize("bulk", [True, False])
async def test_text_that_is_longer_than_its_column_is_never_cut_silently(
    bulk: bool, uri: str, opened: OpenSink
) -> None:
    """Though the connection is set to do so, as MLflow itself sets it now and then."""
    sink = await opened(f"{uri}?sql_mode=NO_AUTO_VALUE_ON_ZERO", bulk=bulk)
    for one in (
        trace([span(ids(1)[0], name="n" * 70_000)]),
        five_spans(assessments=[feedback(rationale="r" * 70_000)]),
    ):
        with pytest.raises(PoisonError, match=r"Data too long for column '(name|rationale)'"):
            await sink.write([one])
    await sink.write([trace([span(ids(1)[0], name="n" * 60_000)])])


async def test_client_request_ids_are_compared_letter_by_letter(uri: str, opened: OpenSink) -> None:
    sink = await opened(uri)
    capital = five_spans(part=TracePart(client_request_id="R-1"))
    small = five_spans(part=TracePart(client_request_id="r-1"))
    await sink.write([small, capital])
    await sink.write([by_request("r-1")])
    (row,) = dump(uri)["assessments"]
    assert row["trace_id"] == f"tr-{(small.trace_id or b'').hex()}"


@pytest.mark.parametrize("by", ["uri", "variable"])
async def test_tls_and_other_options_of_the_uri(
    by: str,
    uri: str,
    mariadb: MariaDbServer,
    opened: OpenSink,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The authority is named in the URI, or in MLflow's own variable: PyMySQL compares nothing with that
    alone."""

    def trusting(ca: object) -> str:
        usual = f"{uri}?charset=utf8mb4&connect_timeout=5"
        if by == "uri":
            return f"{usual}&ssl_ca={ca}"
        monkeypatch.setenv("MLFLOW_MYSQL_SSL_CA", str(ca))
        return f"{usual}&ssl_verify_cert=true"

    query = sa.text("SHOW STATUS LIKE 'Ssl_cipher'")
    sink = await opened(trusting(mariadb.ca))
    await sink.write([five_spans(part=TracePart(tags={"\u00e9": "\U0001f600"}))])
    assert sink._backend is not None
    with sink._backend.store.engine.connect() as connection:
        assert connection.execute(query).one()[1]
    rows = dump(uri)["trace_tags"]
    assert {"\u00e9": "\U0001f600"}.items() <= {row["key"]: row["value"] for row in rows}.items()

    from tests.kafka_days.certificates import Authority

    foreign = open_sink(trusting(Authority(tmp_path, "foreign").ca), default_experiment="x")
    with pytest.raises(TransientError, match="CERTIFICATE_VERIFY_FAILED"):
        await foreign.open()
    await foreign.close()


async def test_another_charset_of_the_connection(uri: str, opened: OpenSink) -> None:
    """Rows go by the driver's own writer there."""
    sink = await opened(f"{uri}?charset=latin1")
    await sink.write([five_spans(part=TracePart(tags={"\u00e9": "it's \\ \u00e9"}))])
    rows = dump(uri)["trace_tags"]
    assert {"\u00e9": "it's \\ \u00e9"}.items() <= {
        row["key"]: row["value"] for row in rows
    }.items()


async def test_a_driver_that_is_missing_is_said_with_the_remedy() -> None:
    sink = open_sink("mysql://root@127.0.0.1/mlflow", default_experiment="x")
    with pytest.raises(FatalError, match=r"spanferry\[mysql\] and write mysql\+pymysql"):
        await sink.open()
    await sink.close()


async def test_missing_rights_lose_nothing(
    uri: str, mariadb: MariaDbServer, opened: OpenSink
) -> None:
    database = uri.rpartition("/")[2]
    mariadb.execute("CREATE OR REPLACE USER reader@'127.0.0.1'")
    mariadb.execute(f"GRANT SELECT ON {database}.* TO reader@'127.0.0.1'")
    theirs = uri.replace("root@", "reader@")
    findings = await asyncio.to_thread(probe, theirs, default_experiment="x")
    found = [one.text for one in findings if not one.good]
    assert len(found) == 1
    assert "grant the worker's user INSERT and UPDATE" in found[0]
    sink = await opened(theirs, default_experiment="Default")
    with pytest.raises(TransientError, match="INSERT command denied"):
        await sink.write([five_spans()])
    mariadb.execute(f"GRANT ALL ON {database}.* TO reader@'127.0.0.1'")
    await sink.close()
    await (await opened(theirs, default_experiment="Default")).write([five_spans()])
    mariadb.execute("DROP USER reader@'127.0.0.1'")


VALUES = (
    st.text(st.characters(exclude_categories=["Cs"]))
    | st.text("\\'\"%\0\x1a\n`")
    | st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
    | st.integers(-(2**63), 2**63 - 1)
    | st.none()
)


@pytest.mark.parametrize("mode", ["", "NO_BACKSLASH_ESCAPES,ANSI_QUOTES"])
def test_literals_are_read_as_what_they_were(mode: str, mariadb: MariaDbServer) -> None:
    port = sa.make_url(mariadb.uri("mysql")).port or 0
    connection = pymysql.connect(host="127.0.0.1", port=port, user="root", sql_mode=mode)
    with connection, connection.cursor() as cursor:

        @given(st.lists(VALUES, min_size=1, max_size=5))
        def check(values: list[Any]) -> None:
            (row,) = Literals(connection).rows([values])
            cursor.execute(b"SELECT " + row[1:-1])
            assert cursor.fetchall() == (tuple(values),)

        check()
        ((true, false),) = (cursor.execute("SELECT 1, 0"), cursor.fetchall())[1]
        assert list(Literals(connection).rows([(True, False)])) == [f"({true},{false})".encode()]
        with pytest.raises(ValueError, match="no number"):
            list(Literals(connection).rows([(float("nan"),)]))
