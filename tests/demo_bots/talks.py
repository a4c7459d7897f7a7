"""What the people of the demo say to the bots, and what they expect to see."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from bots.config import BotConfig
from tests.demo_bots.scene import STEP_TIMEOUT_S, Scene, photo_of_a_kettle
from tests.fakes import discord_chats, telegram_chats
from tests.fakes.telegram_chats import User

Conversation = Callable[[], Awaitable[None]]

PROMPTS = {
    "telegram-paint": "a lighthouse in a storm, waves against the rocks",
    "telegram-oil": "an old harbour at dawn, boats in the mist",
    "telegram-poster": "mountains at sunset above a lake",
    "telegram-clip": "waves under a full moon",
    "telegram-wide": "clouds over a mountain range",
    "telegram-reel": "snow falling on a forest",
    "discord-paint": "a castle on a hill in autumn",
    "discord-oil": "a sailing boat on a calm sea",
    "discord-poster": "a desert with tall cacti at night",
    "discord-clip": "rain over a field of flowers",
    "discord-wide": "a river through a valley",
    "discord-reel": "stars above a lonely tree",
}
FALLBACK = "a quiet lake in the evening"


def prompt_of(bot: BotConfig) -> str:
    """What the demo asks this bot for."""
    return PROMPTS.get(bot.id, FALLBACK)


class Telegrammer:
    """A person in Telegram, in a private chat with one bot or in a group with it."""

    def __init__(self, scene: Scene, bot: BotConfig, user: User, chat: int | None = None) -> None:
        self.scene, self.config, self.user = scene, bot, user
        self.bot = scene.telegram_bots[bot.id]
        self.chat = chat if chat is not None else user.id

    async def say(self, text: str, **more: Any) -> None:
        await self.scene.telegram.say(self.bot, self.user, text, chat=self.chat, **more)

    async def press(self, message: telegram_chats.Message, label: str) -> None:
        await self.scene.telegram.press(self.bot, self.user, message, label)

    async def sees(self, what: str, condition: Any) -> Any:
        """A step: what the person sees at last."""
        return await self.scene.step(self.config.id, what, self.scene.telegram.until(condition, what, STEP_TIMEOUT_S))

    async def sees_result(self, what: str, number: int, words: str = "") -> telegram_chats.Message:
        def found() -> Any:
            results = self.scene.telegram.results(self.chat)
            return len(results) >= number and words in results[number - 1].text and results[number - 1]

        result: telegram_chats.Message = await self.sees(what, found)
        return result

    async def sees_words(self, what: str, words: str) -> telegram_chats.Message:
        def found() -> Any:
            seen = self.scene.telegram.seen(self.chat, by_bot=True)
            return next((message for message in reversed(seen) if words in message.text), None)

        message: telegram_chats.Message = await self.sees(what, found)
        return message


async def telegram_picture(scene: Scene, bot: BotConfig, user: User) -> None:
    """A picture from words, and what its buttons make of it."""
    me = Telegrammer(scene, bot, user)
    await me.say("/start")
    await me.sees_words("greets with what it can do", "/imagine")
    await me.say(f"{prompt_of(bot)} --seed 7")
    first = await me.sees_result("makes a picture from words, in the same message", 1, "seed 7")
    await me.press(first, "🎲")
    await me.sees_result("varies it", 2)
    await me.press(first, "🔍")
    await me.sees_result("makes it larger", 3)
    await me.press(first, "📎")

    def original() -> Any:
        seen = scene.telegram.seen(me.chat, by_bot=True)
        return next((m for m in seen if m.file is not None and m.file.kind == "document"), None)

    await me.sees("gives the original file", original)
    await me.say("/usage")
    await me.sees_words("tells what is left", "New tokens in")


async def telegram_four(scene: Scene, bot: BotConfig, user: User) -> None:
    """Four at once, one of them chosen; then other words for it; all in German."""
    me = Telegrammer(scene, bot, user)
    await me.say(f"{prompt_of(bot)} --count 4 --ar 1:1")
    four = await me.sees_result("makes four at once", 1)
    assert len([b for row in four.buttons for b in row if "🔍" in b.label]) == 4
    await me.press(four, "🔍 3")
    await me.sees_result("makes the third of them larger", 2)
    await me.press(four, "✏️")
    question = await me.sees_words("asks for other words", "Der alte")
    await me.say("ein Hafen bei Nacht, Laternen", reply_to=question)
    await me.sees_result("makes it from the other words", 3, "ein Hafen bei Nacht")
    await me.say("/history")
    page = await me.sees_words("pages through what was made", "Seite 1")
    await me.press(page, "2")
    await me.sees_result("shows an earlier one again", 4)
    await me.say("/settings")
    settings = await me.sees_words("shows the settings", "Einstellungen")
    await me.press(settings, "Format")
    choices = await me.sees("offers formats", lambda: _with_button(scene, me.chat, "16:9"))
    await me.press(choices, "16:9")
    await me.sees_words("keeps the format", "Gespeichert")


async def telegram_group(scene: Scene, bot: BotConfig, user: User, other: User, chat: int) -> None:
    """A group with topics: only what is meant for the bot; a foreign button; 'again' for everybody."""
    me = Telegrammer(scene, bot, user, chat)
    await me.say("good morning everybody", thread=7)
    await me.say(f"/imagine@{me.bot.username} {prompt_of(bot)}", thread=7)
    result = await me.sees_result("answers in the topic of the group", 1)
    assert result.thread == 7, f"it answered in {result.thread}"
    them = Telegrammer(scene, bot, other, chat)
    await them.press(result, "🗑")
    await them.sees(
        "lets only the asker delete", lambda: any("Only the person" in n[1] for n in scene.telegram.notices)
    )
    await them.press(result, "🔁")
    await them.sees_result("lets anybody have his own", 2)


async def telegram_clip(scene: Scene, bot: BotConfig, user: User) -> None:
    """A clip from words, then one from a picture, then more of it."""
    me = Telegrammer(scene, bot, user)
    await me.say(prompt_of(bot))
    clip = await me.sees_result("makes a clip from words", 1)
    assert clip.file is not None and clip.file.kind == "video", clip.file
    if bot.id == "telegram-clip":
        await me.say("the kettle begins to steam", photo=photo_of_a_kettle())
        await me.sees_result("brings a picture to life", 2)
        await me.press(clip, "⏩")
        await me.sees_result("makes the clip go on", 3)
    else:
        await me.say("/cancel")
        await me.sees_words("has nothing to cancel", "Nothing of yours")


def _with_button(scene: Scene, chat: int, label: str) -> Any:
    for message in reversed(scene.telegram.seen(chat, by_bot=True)):
        if any(label in button.label for row in message.buttons for button in row):
            return message
    return None


class Discorder:
    """A person in Discord, in a channel with one bot."""

    def __init__(self, scene: Scene, bot: BotConfig, user: discord_chats.User, channel: discord_chats.Channel) -> None:
        self.scene, self.config, self.user, self.channel = scene, bot, user, channel
        self.bot = scene.discord_bots[bot.id]

    async def command(self, name: str, options: dict[str, Any] | None = None, **more: Any) -> discord_chats.Interaction:
        return await self.scene.discord.command(self.bot, self.channel, self.user, name, options, **more)

    async def press(self, message: discord_chats.Message, label: str) -> discord_chats.Interaction:
        return await self.scene.discord.press(self.bot, self.user, message, label)

    async def sees(self, what: str, condition: Any) -> Any:
        """A step: what the person sees at last."""
        return await self.scene.step(self.config.id, what, self.scene.discord.until(condition, what, STEP_TIMEOUT_S))

    async def sees_result(self, what: str, number: int, words: str = "") -> discord_chats.Message:
        def found() -> Any:
            results = self.scene.discord.results(self.channel, self.user)
            return len(results) >= number and words in results[number - 1].text and results[number - 1]

        result: discord_chats.Message = await self.sees(what, found)
        return result

    async def sees_words(self, what: str, words: str) -> discord_chats.Message:
        def found() -> Any:
            seen = self.scene.discord.seen(self.channel, self.user)
            return next((message for message in reversed(seen) if message.by_bot and words in message.text), None)

        message: discord_chats.Message = await self.sees(what, found)
        return message


async def discord_picture(
    scene: Scene, bot: BotConfig, user: discord_chats.User, channel: discord_chats.Channel
) -> None:
    """A command with options, the form of a bare command, buttons, and screens that only the asker sees."""
    me = Discorder(scene, bot, user, channel)
    await me.command(
        "imagine", {"prompt": prompt_of(bot), "ratio": "16:9", "seed": 7, "spoiler": bot.id.endswith("oil")}
    )
    first = await me.sees_result("makes a picture by a command", 1, "seed 7")
    await me.press(first, "🎲")
    await me.sees_result("varies it", 2)
    if bot.id == "discord-paint":
        bare = await me.command("imagine")
        await me.sees("opens a form for a bare command", lambda: bare.modal is not None)
        await scene.discord.submit(bare, "a bridge over a river --count 4")
        four = await me.sees_result("makes four from the form", 3, "a bridge over a river")
        await me.press(four, "🔍 2")
        await me.sees_result("makes the second of them larger", 4)
        edit = await me.press(first, "✏️")
        await me.sees("opens the form with the old words", lambda: edit.modal is not None)
        await scene.discord.submit(edit, "a castle on a hill in winter")
        await me.sees_result("makes it from the new words", 5, "in winter")
    await me.command("usage")
    usage = await me.sees_words("tells the asker alone what is left", "New tokens in")
    assert usage.only_for == user.id, "everybody sees it"


async def discord_clip(scene: Scene, bot: BotConfig, user: discord_chats.User, channel: discord_chats.Channel) -> None:
    """A clip by a command; one from a picture; the menu of a message."""
    me = Discorder(scene, bot, user, channel)
    await me.command("video", {"prompt": prompt_of(bot)})
    clip = await me.sees_result("makes a clip by a command", 1)
    assert clip.file is not None and clip.file.kind == "video", clip.file
    if bot.id == "discord-clip":
        await me.command("animate", {"prompt": "it steams"}, image=photo_of_a_kettle())
        await me.sees_result("brings a picture to life", 2)
        await me.command("history")
        await me.sees_words("pages through what was made", "page 1")
    elif bot.id == "discord-wide":
        message = await scene.discord.say(me.bot, channel, user, "look at this", image=photo_of_a_kettle())
        await scene.discord.menu(me.bot, channel, user, message)
        await me.sees_result("brings a picture of a message to life", 2)
    else:
        await me.command("help")
        await me.sees_words("explains itself to the asker alone", "/animate")


async def linked(scene: Scene, telegram: BotConfig, discord: BotConfig, user: User, friend: discord_chats.User) -> None:
    """One person on both platforms: a code from Telegram, typed in Discord; one quota, shown on both."""
    there = Telegrammer(scene, telegram, user)
    channel = scene.discord.direct(friend, scene.discord_bots[discord.id])
    here = Discorder(scene, discord, friend, channel)
    await there.say(f"{prompt_of(telegram)} at noon")
    await there.sees_result("makes a picture before the accounts are linked", 1)
    await there.say("/link")
    message = await there.sees_words("gives a code", "Your code")
    code = message.text.split("/link ")[-1].split()[0].strip()
    await here.command("link", {"code": code})
    await here.sees_words("links the accounts", "Linked")
    await here.command("imagine", {"prompt": f"{prompt_of(discord)} at noon"})
    await here.sees_result("makes a picture from the shared quota", 1)
    await there.say("/usage")
    told = await there.sees_words("shows in Telegram what both have used", "Shared with")
    await here.command("usage")
    also = await here.sees_words("shows the same in Discord", "Shared with")
    amount = next(line for line in told.text.splitlines() if "tokens left" in line)
    assert amount.split("▱")[-1].split("▰")[-1].strip() in also.text.replace("\\", ""), (told.text, also.text)
