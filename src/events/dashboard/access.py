"""Access to the dashboard, which the application decides."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

from msgspec import Struct
from msgspec.structs import replace

if TYPE_CHECKING:
    from starlette.requests import Request

Role: TypeAlias = Literal["read", "operate"]


class Access(Struct, frozen=True):
    """A visitor's role and name.

    The role `"read"` shows pages; `"operate"` can also redrive, discard, pause and resume. `name`
    is the actor in audit records. Values that are marked as `PII` are masked unless `personal` is
    true.
    """

    role: Role
    name: str = ""
    personal: bool = False

    @property
    def operates(self) -> bool:
        """Return whether the visitor may change something."""
        return self.role == "operate"


Answer: TypeAlias = Access | Role | None

Authorize: TypeAlias = "Callable[[Request], Answer | Awaitable[Answer]]"
"""A function of the request that returns an `Access`, `"read"`, `"operate"`, or None to refuse it.

A plain role is an `Access` without a name, with personal values masked.
"""


async def access_of(authorize: Authorize, request: Request) -> Access | None:
    """Call `authorize`. Raises `TypeError` for an invalid result."""
    given: object = authorize(request)
    if inspect.isawaitable(given):
        given = await given
    host = request.client.host if request.client else "an unknown host"
    if given is None:
        return None
    access = Access(cast("Any", given)) if isinstance(given, str) else given
    if isinstance(access, Access) and access.role in get_args(Role):
        return access if access.name else replace(access, name=f"somebody at {host}")
    raise TypeError(
        f"authorize of the dashboard returned {given!r}: return None, 'read', 'operate' or an "
        f"Access, as in Access('operate', name='anna')"
    )
