"""Which bots there are, read once at the start from ``bots.toml``, and where each finds its token.

Nothing is read at import time. A bot whose token is missing is left out, and said so; what is wrong in the file ends
the start with the entry to correct.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bots.core.messages import LANGUAGES
from bots.core.options import BadOption, wish_of

Platform = Literal["telegram", "discord"]
KEY_FILE = "bots.key"  # in the home: the service key that `make up` makes
# The variable and the usual port, on loopback; 0 takes any.
HEALTH_PORTS: Mapping[str, tuple[str, float]] = {
    "telegram": ("TESSERA_TELEGRAM_HEALTH_PORT", 8461),
    "discord": ("TESSERA_DISCORD_HEALTH_PORT", 8462),
}
API: Mapping[str, str] = {"telegram": "TESSERA_TELEGRAM_API", "discord": "TESSERA_DISCORD_API"}


class ConfigError(Exception):
    """A setting that has to be corrected before the bots can start; the message names it."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Defaults(_Frozen):
    """What a wish that says nothing gets from this bot."""

    ratio: str = "1:1"
    count: int = Field(default=1, ge=1, le=4)
    spoiler: bool = False
    model: str | None = None
    duration_s: float = Field(default=2.0, ge=0.25, le=16)
    fps: int = Field(default=12, ge=1, le=30)
    area_px: int = Field(default=768 * 768, ge=64 * 64, le=2048 * 2048)  # (start) the free plan can make it larger once
    video_area_px: int = Field(default=512 * 512, ge=64 * 64, le=1920 * 1080)

    @field_validator("ratio")
    @classmethod
    def _ratio(cls, value: str) -> str:
        try:
            return wish_of("", {"ratio": value}).ratio or "1:1"
        except BadOption as error:
            raise ValueError(f"'{value}' is no ratio; write it as {error.hint}") from None


class BotConfig(_Frozen):
    """One bot. ``id`` names it in logs, metrics and in the outbox of the platform."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
    platform: Platform
    kind: Literal["image", "video"]
    title: Annotated[str, Field(min_length=1, max_length=64)]
    token: Annotated[str, Field(pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$")]
    look: Annotated[str, Field(max_length=300)] = ""
    colour: int = Field(default=0x3B82F6, ge=0, le=0xFFFFFF)
    languages: tuple[str, ...] = tuple(LANGUAGES)
    models: tuple[str, ...] = ()
    defaults: Defaults = Defaults()

    @field_validator("languages")
    @classmethod
    def _languages(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [language for language in value if language not in LANGUAGES]
        if unknown or not value:
            raise ValueError(f"languages are {', '.join(LANGUAGES)}; not {', '.join(unknown) or 'none at all'}")
        return value


class BotsFile(_Frozen):
    """The whole of ``bots.toml``, checked."""

    bots: tuple[BotConfig, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        ids = [bot.id for bot in self.bots]
        for bot_id in ids:
            if ids.count(bot_id) > 1:
                raise ValueError(f"bot '{bot_id}' is defined {ids.count(bot_id)} times: give each bot its own id")
        tokens = [bot.token for bot in self.bots]
        for bot in self.bots:
            if tokens.count(bot.token) > 1:
                raise ValueError(f"the token {bot.token} is given to several bots: each bot has a token of its own")
        return self

    def of(self, platform: str) -> tuple[BotConfig, ...]:
        """The bots of a platform, in the order of the file."""
        return tuple(bot for bot in self.bots if bot.platform == platform)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How fast a platform lets one bot send: in one chat, in one group within a window (0: no such limit), and in all
    within another."""

    chat_per_s: float
    group_per_window: int
    all_per_window: int
    group_window_s: float = 61.0  # a minute, and what our clocks may differ by
    all_window_s: float = 1.0

    def faster(self, factor: float) -> Limits:
        """The same for a platform whose clock runs faster: a fake of it."""
        return Limits(
            chat_per_s=self.chat_per_s * factor,
            group_per_window=self.group_per_window,
            all_per_window=self.all_per_window,
            group_window_s=self.group_window_s / factor,
            all_window_s=self.all_window_s / factor,
        )


LIMITS: Mapping[str, Limits] = {
    # About 1 message a second in a chat, 20 a minute in a group, 30 a second in all; edits count. Two are left for
    # messages that take a second call, such as one to a topic that is gone.
    # https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this
    "telegram": Limits(chat_per_s=1.0, group_per_window=20, all_per_window=28),
    # 5 messages in 5 seconds in a channel, 50 requests a second in all: four are left for second calls and notices.
    # https://discord.com/developers/docs/topics/rate-limits
    "discord": Limits(chat_per_s=1.0, group_per_window=0, all_per_window=46),
}


@dataclass(frozen=True, kw_only=True)
class BotsSettings:
    """Everything that a process of bots was told. ``tokens`` and ``key`` are kept out of ``repr``."""

    platform: Platform
    bots: tuple[BotConfig, ...]
    url: str
    public_url: str  # for links that people open
    key: Token
    tokens: Mapping[str, Token]
    missing: Mapping[str, str]  # bots that are left out, and why
    limits: Limits
    api: str  # of the platform; empty: the real one
    gateway: str  # Discord's; empty: the real one
    health_port: int
    state_file: Path
    webhook_url: str = ""  # Telegram: updates come to this address instead of being asked for


class Token:
    """A secret that shows itself only when it is asked to."""

    __slots__ = ("_secret",)

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def reveal(self) -> str:
        """The secret."""
        return self._secret

    def __repr__(self) -> str:
        return "Token(…)"


def bots_file(environ: Mapping[str, str]) -> Path:
    """The file of the bots: ``TESSERA_BOTS``, else the one in this package."""
    named = environ.get("TESSERA_BOTS")
    return Path(named) if named else Path(__file__).parent / "bots.toml"


def load_bots(path: Path) -> BotsFile:
    """Read and check the file. Raises ConfigError with the entries to correct."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the file of the bots {path} cannot be read ({error.strerror}): correct TESSERA_BOTS"
        ) from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    try:
        return BotsFile.model_validate(data)
    except ValidationError as error:
        lines = [f"{path} has {error.error_count()} place(s) to correct:"]
        lines += [f"  {_in_words(item, data)}" for item in error.errors(include_url=False)]
        raise ConfigError("\n".join(lines)) from error


_FORMS = {
    "id": "lower-case letters, digits and hyphens, beginning with a letter",
    "token": "env:NAME (a variable) or file:PATH (a file); never the token itself",
}


def _in_words(problem: Any, data: Mapping[str, Any]) -> str:
    """One thing that is wrong, with the bot by its name; what was given for a token is never repeated."""
    where, field = [str(part) for part in problem["loc"]], str(problem["loc"][-1]) if problem["loc"] else ""
    if len(where) > 1 and where[0] == "bots" and where[1].isdecimal():
        entry = data["bots"][int(where[1])]
        name = str(entry.get("id") or "") if isinstance(entry, dict) else ""
        where[:2] = [f"bot '{name}'" if name else f"bot number {int(where[1]) + 1}"]
    match problem["type"]:
        case "missing":
            said = "is missing"
        case "extra_forbidden":
            said = "is no field of a bot; the head of the file lists them"
        case "string_pattern_mismatch" if field in _FORMS:
            said = f"write it as {_FORMS[field]}"
        case _:
            said = str(problem["msg"]).removeprefix("Value error, ")
    return f"{', '.join(where)}: {said}" if where else said


def read_token(source: str, home: Path, environ: Mapping[str, str]) -> Token | str:
    """The token of a bot, or why there is none."""
    where, _, name = source.partition(":")
    if where == "env":
        value = environ.get(name, "").strip()
        return Token(value) if value else f"the variable {name} is not set"
    path = home / name
    try:
        value = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    if path.stat().st_mode & 0o077:
        return f"{path} can be read by others: chmod 600 {path}"
    return Token(value) if value else f"{path} is empty"


def has_tokens(environ: Mapping[str, str], home: Path, platform: str) -> bool:
    """Whether some bot of the platform could start."""
    return any(
        isinstance(read_token(bot.token, home, environ), Token) for bot in load_bots(bots_file(environ)).of(platform)
    )


def load_settings(platform: Platform, environ: Mapping[str, str] | None = None) -> BotsSettings:
    """What the environment says. Raises ConfigError."""
    env = os.environ if environ is None else environ
    home = Path(env.get("TESSERA_HOME") or ".tessera").absolute()
    bots = load_bots(bots_file(env)).of(platform)
    tokens, missing = {}, {}
    for bot in bots:
        token = read_token(bot.token, home, env)
        if isinstance(token, Token):
            tokens[bot.id] = token
        else:
            missing[bot.id] = token
    url = env.get("TESSERA_URL", "").rstrip("/")
    if not url:
        raise ConfigError("TESSERA_URL is not set: the address of the platform, such as http://127.0.0.1:8000")
    key = env.get("TESSERA_SERVICE_KEY", "").strip()
    if not key:
        found = read_token(f"file:{KEY_FILE}", home, env)
        if isinstance(found, str):
            raise ConfigError(
                f"no service key: {found}, and TESSERA_SERVICE_KEY is not set. "
                "'tessera keys create bots --scope service' makes one"
            )
        key = found.reveal()
    limits = LIMITS[platform].faster(_real(env, "TESSERA_BOTS_PACE", 1.0))
    return BotsSettings(
        platform=platform,
        bots=tuple(bot for bot in bots if bot.id in tokens),
        url=url,
        public_url=env.get("TESSERA_PUBLIC_URL", url).rstrip("/"),
        key=Token(key),
        tokens=tokens,
        missing=missing,
        limits=limits,
        api=env.get(API[platform], ""),
        gateway=env.get("TESSERA_DISCORD_GATEWAY", ""),
        health_port=int(_real(env, *HEALTH_PORTS[platform])),
        state_file=home / "run" / f"bots-{platform}-state.json",
        webhook_url=env.get("TESSERA_TELEGRAM_WEBHOOK_URL", "") if platform == "telegram" else "",
    )


def _real(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if value < 0:
        raise ConfigError(f"{name} is '{text}': it must be a number of 0 or more")
    return value
