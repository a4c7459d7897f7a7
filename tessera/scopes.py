"""What an API key may do: the closed set of scopes. Pure."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """One permission of a key; a key has one at least. Given when the key is made, and never changed afterwards."""

    JOBS = "jobs"  # everything of the user's own: submit, cancel, upload, keys, account. Whoever has it may give it
    READ = "read"  # look at the user's own things and change nothing. Whoever may make keys may give it
    SERVICE = "service"  # act on behalf of persons, and the internal API: bots. Only an operator may give it
    ADMIN = "admin"  # everybody's things. Only an operator may give it; worth nothing on a key of anybody else


OPERATORS_ONLY = frozenset({Scope.SERVICE, Scope.ADMIN})


def may_give(own: frozenset[str]) -> frozenset[str]:
    """The scopes that a key with these may give to a new one: its own and less, an operator's also ``service``."""
    return own | {Scope.READ} | ({Scope.SERVICE} if Scope.ADMIN in own else frozenset())
