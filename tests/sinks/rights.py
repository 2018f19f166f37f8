"""Users of a database who may not write to all of it."""

import secrets
from collections.abc import Callable

import sqlalchemy as sa

from tests.sinks.conftest import Place

__all__ = ["user_without"]


def user_without(place: Place, *tables: str) -> tuple[str, Callable[[], None]]:
    """A database's URI for a user who may not insert into these tables, and what grants that."""
    user = f"writer{secrets.token_hex(4)}"
    if place.kind == "postgres":
        uri = place.uri.replace("postgres@", f"{user}@")
        may, every = "GRANT {} ON {} TO " + user, "ALL TABLES IN SCHEMA public"
        first = [
            f"CREATE ROLE {user} LOGIN",
            may.format("SELECT, INSERT, UPDATE, DELETE", every),
            may.format("USAGE", "ALL SEQUENCES IN SCHEMA public"),
            *(f"REVOKE INSERT ON {table} FROM {user}" for table in tables),
        ]
    else:
        uri = place.uri.replace("root@", f"{user}@")
        may = "GRANT {} ON {} TO " + f"{user}@'%'"
        others = set(sa.inspect(place.store.engine).get_table_names()) - set(tables)
        first = [
            f"CREATE USER {user}@'%'",
            *(may.format("SELECT, INSERT, UPDATE, DELETE", one) for one in sorted(others)),
            *(may.format("SELECT, UPDATE", table) for table in tables),
        ]

    def execute(*statements: str) -> None:
        with place.store.engine.begin() as connection:
            for statement in statements:
                connection.execute(sa.text(statement))

    execute(*first)
    return uri, lambda: execute(*(may.format("INSERT", table) for table in tables))
