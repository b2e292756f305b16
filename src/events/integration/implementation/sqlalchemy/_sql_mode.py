"""Modes of MariaDB and MySQL under which something else is stored than was written.

- `NO_BACKSLASH_ESCAPES`: the server takes a backslash for itself. asyncmy escapes all the same, so
  that a body is stored with backslashes in it, or ends its literal early.
- `EMPTY_STRING_IS_NULL`: an empty key is no key, and the name of the relays' lock row is NULL.

Without strict modes nothing is lost: what a column would cut is refused before it is written.
"""

from __future__ import annotations

from weakref import WeakSet

from sqlalchemy import Connection, Engine, text

_WRONG = ("NO_BACKSLASH_ESCAPES", "EMPTY_STRING_IS_NULL")
_right: WeakSet[Engine] = WeakSet()


def wrong_mode(connection: Connection) -> str | None:
    """Return why nothing can be written on this connection; asked once for each engine."""
    if connection.dialect.name not in {"mysql", "mariadb"} or connection.engine in _right:
        return None
    modes = str(connection.execute(text("SELECT @@sql_mode")).scalar_one()).split(",")
    for mode in _WRONG:
        if mode in modes:
            return (
                f"{connection.engine.url!r} is in sql_mode {mode}, under which something else is "
                f"stored than was written: take it out of the server's sql_mode, or out of that of "
                f"the connection, as in connect_args={{'init_command': \"SET sql_mode = "
                f"'STRICT_TRANS_TABLES'\"}}"
            )
    _right.add(connection.engine)
    return None
