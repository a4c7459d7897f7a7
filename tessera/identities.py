"""Who a user is elsewhere: an account of Telegram or Discord, an address, a subject of an OpenID provider. Pure."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from tessera.errors import InvalidInput


class Provider(StrEnum):
    """Where an identity comes from: who vouches for it."""

    TELEGRAM = "telegram"  # the subject is the numeric id of the account: names there change hands
    DISCORD = "discord"  # the subject is the account's snowflake
    EMAIL = "email"  # the subject is the address, in lower case
    OIDC = "oidc"  # the subject is issuer and subject of an OpenID provider, as the website writes them


# One spelling for each account, so that nobody gets a second user by writing his id in another way.
_SUBJECTS: Mapping[Provider, re.Pattern[str]] = {
    Provider.TELEGRAM: re.compile(r"[1-9][0-9]{0,18}"),
    Provider.DISCORD: re.compile(r"[1-9][0-9]{0,19}"),
    Provider.EMAIL: re.compile(r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[a-z0-9](?:[a-z0-9.-]{0,250}[a-z0-9])?"),
    Provider.OIDC: re.compile(r"[\x21-\x7e]{1,300}"),
}
EXAMPLE = "telegram:123456789"


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """One account of one person at one provider."""

    provider: Provider
    subject: str

    def __str__(self) -> str:
        return f"{self.provider.value}:{self.subject}"

    def keyed_hash(self, secret: bytes) -> bytes:
        """What is kept of an identity that has left: who has the secret can recognise it, nobody can read it.

        https://www.rfc-editor.org/rfc/rfc2104
        """
        return hmac.new(secret, str(self).encode(), hashlib.sha256).digest()


def parse_identity(text: str, *, where: str = "identity") -> Identity:
    """``provider:subject`` in its one spelling. Raises InvalidInput that names ``where`` it stood."""
    provider, _, subject = text.partition(":")
    known = ", ".join(each.value for each in Provider)
    if provider not in list(Provider):
        message = f"must be provider:subject, such as {EXAMPLE}; the providers are {known}"
    elif _SUBJECTS[Provider(provider)].fullmatch(subject) is None:
        message = f"has a subject that {provider} does not give: write it as {EXAMPLE}, without spaces"
    else:
        return Identity(provider=Provider(provider), subject=subject)
    raise InvalidInput(f"Nothing was done. {where}: {message}", errors=[{"field": where, "message": message}])


# Crockford's letters, without those that are taken for others. https://www.crockford.com/base32.html
_CODE_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
CODE_CHARS = 8  # 40 bits: with ten tries in ten minutes, and codes that live as long, none is found by trying
_READ_AS = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})


def write_code(letters: bytes) -> str:
    """A link code of CODE_CHARS random bytes, in two halves to be read out: ``K7QM-2F9X``."""
    code = "".join(_CODE_LETTERS[byte & 31] for byte in letters)
    return f"{code[: CODE_CHARS // 2]}-{code[CODE_CHARS // 2 :]}"


def read_code(text: str) -> str | None:
    """A link code as a person types it, in its one spelling; None for what cannot be one."""
    code = text.strip().upper().translate(_READ_AS)
    if len(code) != CODE_CHARS or any(letter not in _CODE_LETTERS for letter in code):
        return None
    return f"{code[: CODE_CHARS // 2]}-{code[CODE_CHARS // 2 :]}"


def code_hash(code: str, secret: bytes) -> bytes:
    """The keyed hash under which a link code is kept."""
    return hmac.new(secret, code.encode(), hashlib.sha256).digest()
