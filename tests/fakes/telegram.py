"""The Bot API on a real socket, and the chats behind it as people see them. aiogram connects to it unchanged.

https://core.telegram.org/bots/api. It is as strict as the real one where a bot could go wrong: limits of length and
size, HTML that must parse, edits that change nothing, flood limits, one poller per token. ``faults`` break calls.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from aiohttp import web

from tests.fakes.chats import Act, File, Snapshot
from tests.fakes.telegram_chats import (
    Chat,
    FakeBot,
    Fault,
    Limits,
    Message,
    Refusal,
    User,
    attached,
    buttons_of,
    parse_html,
    read_call,
    refusal_answer,
    units,
)

MAX_TEXT, MAX_CAPTION = 4096, 1024
TIMEOUT_S = 60
SENDING = frozenset(
    {
        "sendMessage",
        "sendPhoto",
        "sendVideo",
        "sendDocument",
        "editMessageText",
        "editMessageCaption",
        "editMessageMedia",
        "deleteMessage",
    }
)


class FakeTelegram:
    """Use it as ``async with FakeTelegram() as telegram``; ``url`` is its address."""

    def __init__(self) -> None:
        self.url = ""
        self.bots: dict[str, FakeBot] = {}
        self.users: dict[int, User] = {}
        self.chats: dict[int, Chat] = {}
        self.files: dict[str, File] = {}
        self.faults: list[Fault] = []
        self.limits: Limits | None = None
        self.notices: list[tuple[str, str, bool]] = []  # (query, text, alert)
        self.acts: list[Act] = []
        self.calls: list[tuple[float, str, str, int | None]] = []  # (when, bot, method, chat)
        self.floods = 0
        self.changed = asyncio.Condition()
        self._ids = itertools.count(1)
        self._updates = itertools.count(1000)
        self._order = itertools.count(1)
        self._pressed: dict[str, tuple[int, str]] = {}  # query → chat, person
        self._sent: dict[tuple[str, int], deque[float]] = defaultdict(deque)
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> FakeTelegram:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/bot{token}/{method}", self._call)
        app.router.add_get("/file/bot{token}/{path:.+}", self._download)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]
        return self

    async def __aexit__(self, *_: object) -> None:
        for bot in self.bots.values():
            bot.arrived.set()
        assert self._runner is not None
        await self._runner.cleanup()

    # What people do

    def add_bot(self, token: str, username: str) -> FakeBot:
        bot = FakeBot(id=int(token.split(":")[0]), token=token, username=username)
        self.bots[token] = bot
        return bot

    def add_user(self, user_id: int, name: str, language: str = "en") -> User:
        self.users[user_id] = User(user_id, name, language)
        self.chats[user_id] = Chat(user_id, "private", name)
        return self.users[user_id]

    def add_group(self, chat_id: int, title: str, *, admins: tuple[int, ...] = ()) -> Chat:
        self.chats[chat_id] = Chat(chat_id, "supergroup" if chat_id < -(10**12) else "group", title, set(admins))
        return self.chats[chat_id]

    async def say(
        self,
        bot: FakeBot,
        user: User,
        text: str = "",
        *,
        chat: int | None = None,
        photo: bytes | None = None,
        reply_to: Message | None = None,
        thread: int | None = None,
        album: str | None = None,
    ) -> int:
        """A person writes; every bot of the chat would see it, this one gets it. The id of its update."""
        where = self.chats[chat if chat is not None else user.id]
        message = Message(next(self._ids), where.id, user.name, False, text=text, thread=thread)
        message.reply_to = reply_to.id if reply_to is not None else None
        if photo is not None:
            message.file = File("photo", photo, "photo.jpg")
        self._keep(where, message)
        raw: dict[str, Any] = {
            "message_id": message.id,
            "date": int(time.time()),
            "chat": self._chat(where),
            "from": self._user(user),
        }
        if thread is not None:
            raw |= {"message_thread_id": thread, "is_topic_message": True}
        if album is not None:
            raw["media_group_id"] = album
        entities = self._entities(text)
        if photo is not None:
            file_id = self._file(message.file)  # type: ignore[arg-type]
            raw["photo"] = [
                {"file_id": file_id, "file_unique_id": file_id, "width": 640, "height": 480, "file_size": len(photo)}
            ]
            if text:
                raw |= {"caption": text, "caption_entities": entities}
        else:
            raw |= {"text": text, "entities": entities}
        if reply_to is not None:
            raw["reply_to_message"] = reply_to.raw or self._raw(reply_to)
        message.raw = raw
        return await self.give(bot, {"message": raw})

    async def press(self, bot: FakeBot, user: User, message: Message, label: str) -> int:
        """A person presses a button."""
        button = message.button(label)
        assert button.data, f"{label} is a link"
        query = f"q{next(self._ids)}"
        self._pressed[query] = (message.chat, user.name)
        self._act(message.chat, user.name, button.label)
        raw = {
            "id": query,
            "from": self._user(user),
            "message": self._raw(message),
            "chat_instance": "1",
            "data": button.data,
        }
        return await self.give(bot, {"callback_query": raw})

    async def give(self, bot: FakeBot, update: dict[str, Any], *, update_id: int | None = None) -> int:
        """Put an update before a bot: an ``update_id`` that it had before is a repetition."""
        identifier = update_id if update_id is not None else next(self._updates)
        whole = {"update_id": identifier, **update}
        bot.updates.append(whole)
        bot.arrived.set()
        return identifier

    async def migrate(self, chat: Chat, new_id: int, bot: FakeBot | None = None) -> Chat:
        """A group becomes a supergroup: it goes on under another id."""
        moved = Chat(new_id, "supergroup", chat.title, chat.admins)
        chat.moved_to, self.chats[new_id] = new_id, moved
        if bot is not None:
            raw = {
                "message_id": next(self._ids),
                "date": int(time.time()),
                "chat": self._chat(chat),
                "from": self._user(next(iter(self.users.values()))),
                "migrate_to_chat_id": new_id,
            }
            await self.give(bot, {"message": raw})
        return moved

    # What people see

    def seen(self, chat: int, *, by_bot: bool | None = None) -> list[Message]:
        """The messages of a chat that are there, in their order."""
        return [
            message
            for message in self.chats[chat].messages.values()
            if not message.deleted and (by_bot is None or message.by_bot is by_bot)
        ]

    def results(self, chat: int) -> list[Message]:
        """Messages of bots that show a result: a file, and the button for another one."""
        return [
            message
            for message in self.seen(chat, by_bot=True)
            if message.file is not None
            and any("Again" in b.label or "🔁" in b.label for r in message.buttons for b in r)
        ]

    async def next_call(self) -> None:
        """Wait until a bot calls, half a second at most."""
        async with self.changed:
            try:
                async with asyncio.timeout(0.5):
                    await self.changed.wait()
            except TimeoutError:
                return

    async def until(self, condition: Callable[[], Any], what: str = "", timeout_s: float = TIMEOUT_S) -> Any:
        """Wait until it holds, and return what it gave."""
        async with self.changed:
            try:
                async with asyncio.timeout(timeout_s):
                    while not (found := condition()):
                        try:
                            async with asyncio.timeout(0.5):
                                await self.changed.wait()
                        except TimeoutError:
                            continue
                    return found
            except TimeoutError:
                shown = "\n".join(
                    f"  {chat.title}: {message.sender}: {message.text[:200]!r} {message.file} {message.buttons}"
                    for chat in self.chats.values()
                    for message in chat.messages.values()
                )
                raise AssertionError(f"did not happen: {what}\n{shown}\ncalls: {self.calls[-12:]}") from None

    # The Bot API

    async def _call(self, request: web.Request) -> web.StreamResponse:
        token, method = request.match_info["token"], request.match_info["method"]
        bot = self.bots.get(token)
        values, files = await read_call(request)
        if bot is None:
            return refusal_answer(Refusal(401, "Unauthorized"))
        chat_id = int(values["chat_id"]) if str(values.get("chat_id", "")).lstrip("-").isdigit() else None
        self.calls.append((time.monotonic(), bot.username, method, chat_id))
        fault = self._fault(method)
        if fault is not None and fault.kind != "late_drop":
            return await self._break(request, fault)
        try:
            if method in SENDING and chat_id is not None:
                self._count(bot, chat_id)
            handler = getattr(self, f"_{method}", None)
            if handler is None:
                raise Refusal(404, "Not Found: method not found")
            result = await handler(bot, values, files)
        except Refusal as refusal:
            return refusal_answer(refusal)
        finally:
            async with self.changed:
                self.changed.notify_all()
        if fault is not None:
            return await self._break(request, replace(fault, kind="drop"))
        return web.json_response({"ok": True, "result": result})

    def _fault(self, method: str) -> Fault | None:
        for fault in self.faults:
            if fault.method in ("*", method) and not (fault.method == "*" and method == "getUpdates"):
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
                return replace(fault)
        return None

    async def _break(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        match fault.kind:
            case "429":
                refusal = Refusal(
                    429, f"Too Many Requests: retry after {fault.retry_after}", retry_after=fault.retry_after
                )
                return refusal_answer(refusal)
            case "413":
                return refusal_answer(Refusal(413, "Request Entity Too Large"))
            case "timeout":
                await asyncio.sleep(3600)
            case "drop":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
        return web.Response(status=int(fault.kind), text="<html>Bad Gateway</html>", content_type="text/html")

    def _count(self, bot: FakeBot, chat_id: int) -> None:
        now = time.monotonic()
        limits = self.limits
        mine, everywhere = self._sent[(bot.token, chat_id)], self._sent[(bot.token, 0)]
        if limits is not None:
            second, minute = 1 / limits.speed, 60 / limits.speed
            group = self.chats.get(chat_id) is not None and self.chats[chat_id].type != "private"
            if (
                sum(at > now - second for at in mine) >= limits.chat_per_s
                or sum(at > now - second for at in everywhere) >= limits.all_per_s
                or (group and sum(at > now - minute for at in mine) >= limits.group_per_min)
            ):
                self.floods += 1
                raise Refusal(429, "Too Many Requests: retry after 1", retry_after=1)
        for sent in (mine, everywhere):
            sent.append(now)
            while sent and sent[0] < now - 600:
                sent.popleft()

    async def _getMe(self, bot: FakeBot, _values: dict[str, Any], _files: dict[str, bytes]) -> Any:
        return {"id": bot.id, "is_bot": True, "first_name": bot.username, "username": bot.username}

    async def _deleteWebhook(self, bot: FakeBot, _v: dict[str, Any], _f: dict[str, bytes]) -> Any:
        bot.webhook = {}
        return True

    async def _setWebhook(self, bot: FakeBot, values: dict[str, Any], _f: dict[str, bytes]) -> Any:
        bot.webhook = {"url": values["url"], "secret": values.get("secret_token", "")}
        return True

    async def _setMyCommands(self, bot: FakeBot, values: dict[str, Any], _f: dict[str, bytes]) -> Any:
        commands = json.loads(values["commands"])
        for command in commands:
            if not 1 <= len(command["command"]) <= 32 or not 1 <= len(command["description"]) <= 256:
                raise Refusal(400, "Bad Request: BOT_COMMAND_INVALID")
        bot.commands[values.get("language_code", "")] = commands
        return True

    async def _getUpdates(self, bot: FakeBot, values: dict[str, Any], _f: dict[str, bytes]) -> Any:
        if bot.polling is not None and not bot.polling.done():
            bot.polling.cancel()
        bot.polling = asyncio.current_task()
        offset = int(values.get("offset") or 0)
        try:
            if offset:
                bot.acknowledged = max(bot.acknowledged, offset - 1)
                while bot.updates and bot.updates[0]["update_id"] < offset:
                    bot.updates.popleft()
            async with asyncio.timeout(float(values.get("timeout") or 0)):
                while not bot.updates:
                    bot.arrived.clear()
                    await bot.arrived.wait()
                    if not bot.updates:  # it is being closed
                        return []
        except TimeoutError:
            return []
        except asyncio.CancelledError:
            if bot.polling is not asyncio.current_task():
                raise Refusal(409, "Conflict: terminated by other getUpdates request") from None
            raise
        return list(bot.updates)[:100]

    async def _getFile(self, _bot: FakeBot, values: dict[str, Any], _f: dict[str, bytes]) -> Any:
        file_id = values["file_id"]
        if file_id not in self.files:
            raise Refusal(400, "Bad Request: wrong file_id or the file is temporarily unavailable")
        size = len(self.files[file_id].data)
        if size > 20 << 20:
            raise Refusal(400, "Bad Request: file is too big")
        return {"file_id": file_id, "file_unique_id": file_id, "file_size": size, "file_path": f"photos/{file_id}.jpg"}

    async def _download(self, request: web.Request) -> web.StreamResponse:
        file_id = request.match_info["path"].removeprefix("photos/").removesuffix(".jpg")
        if request.match_info["token"] not in self.bots or file_id not in self.files:
            return web.Response(status=404)
        return web.Response(body=self.files[file_id].data)

    async def _getChatMember(self, _bot: FakeBot, values: dict[str, Any], _f: dict[str, bytes]) -> Any:
        chat, user = self._chat_of(values), self.users[int(values["user_id"])]
        if user.id in chat.admins:
            return {"status": "creator", "user": self._user(user), "is_anonymous": False}
        return {"status": "member", "user": self._user(user)}

    async def _answerCallbackQuery(self, _b: FakeBot, values: dict[str, Any], _f: dict[str, bytes]) -> Any:
        query, text = values["callback_query_id"], values.get("text", "")
        self.notices.append((query, text, values.get("show_alert") == "true"))
        if text and query in self._pressed:
            self._act(*self._pressed[query], text, told=True)
        return True

    async def _sendMessage(self, bot: FakeBot, values: dict[str, Any], _f: dict[str, bytes]) -> Any:
        chat = self._writable(bot, values)
        text, entities = self._text(values, "text", MAX_TEXT)
        if not text.strip():
            raise Refusal(400, "Bad Request: message text is empty")
        return self._post(bot, chat, values, text=text, entities=entities, html=values["text"])

    async def _sendPhoto(self, bot: FakeBot, values: dict[str, Any], files: dict[str, bytes]) -> Any:
        return await self._send_file(bot, values, files, "photo")

    async def _sendVideo(self, bot: FakeBot, values: dict[str, Any], files: dict[str, bytes]) -> Any:
        return await self._send_file(bot, values, files, "video")

    async def _sendDocument(self, bot: FakeBot, values: dict[str, Any], files: dict[str, bytes]) -> Any:
        return await self._send_file(bot, values, files, "document")

    async def _send_file(self, bot: FakeBot, values: dict[str, Any], files: dict[str, bytes], kind: str) -> Any:
        chat = self._writable(bot, values)
        text, entities = self._text(values, "caption", MAX_CAPTION)
        file = attached(values[kind], values, files, kind, values.get("has_spoiler") == "true")
        return self._post(bot, chat, values, text=text, entities=entities, html=values.get("caption", ""), file=file)

    async def _editMessageText(self, bot: FakeBot, values: dict[str, Any], _f: dict[str, bytes]) -> Any:
        message = self._mine(bot, values)
        if message.file is not None:
            raise Refusal(400, "Bad Request: there is no text in the message to edit")
        text, entities = self._text(values, "text", MAX_TEXT)
        return self._edit(message, values, text=text, entities=entities, html=values["text"], file=None)

    async def _editMessageCaption(self, bot: FakeBot, values: dict[str, Any], _f: dict[str, bytes]) -> Any:
        message = self._mine(bot, values)
        if message.file is None:
            raise Refusal(400, "Bad Request: there is no caption in the message to edit")
        text, entities = self._text(values, "caption", MAX_CAPTION)
        return self._edit(
            message, values, text=text, entities=entities, html=values.get("caption", ""), file=message.file
        )

    async def _editMessageMedia(self, bot: FakeBot, values: dict[str, Any], files: dict[str, bytes]) -> Any:
        message = self._mine(bot, values)
        media = json.loads(values["media"])
        text, entities = self._text(media, "caption", MAX_CAPTION)
        file = attached(media["media"], values, files, media["type"], bool(media.get("has_spoiler")))
        return self._edit(message, values, text=text, entities=entities, html=media.get("caption", ""), file=file)

    async def _deleteMessage(self, bot: FakeBot, values: dict[str, Any], _f: dict[str, bytes]) -> Any:
        message = self._mine(bot, values)
        message.deleted = True
        return True

    # Inside

    def _writable(self, bot: FakeBot, values: dict[str, Any]) -> Chat:
        chat = self._chat_of(values)
        if chat.closed:
            raise Refusal(403, "Forbidden: bot was kicked from the group chat")
        user = self.users.get(chat.id)
        if user is not None and bot.id in user.blocked:
            raise Refusal(403, "Forbidden: bot was blocked by the user")
        return chat

    def _chat_of(self, values: dict[str, Any]) -> Chat:
        chat = self.chats.get(int(values["chat_id"]))
        if chat is None:
            raise Refusal(400, "Bad Request: chat not found")
        if chat.moved_to is not None:
            raise Refusal(
                400, "Bad Request: group chat was upgraded to a supergroup chat", migrate_to_chat_id=chat.moved_to
            )
        return chat

    def _mine(self, bot: FakeBot, values: dict[str, Any]) -> Message:
        message = self._writable(bot, values).messages.get(int(values["message_id"]))
        if message is None or message.deleted:
            raise Refusal(400, "Bad Request: message to edit not found")
        if message.sender != f"@{bot.username}":
            raise Refusal(400, "Bad Request: message can't be edited")
        return message

    def _text(self, values: dict[str, Any], name: str, limit: int) -> tuple[str, list[dict[str, Any]]]:
        given = values.get(name) or ""
        if values.get("parse_mode") == "HTML":
            try:
                text, entities = parse_html(given)
            except ValueError as error:
                raise Refusal(400, f"Bad Request: can't parse entities: {error}") from None
        else:
            text, entities = given, []
        if units(text) > limit:
            raise Refusal(400, f"Bad Request: message {'caption ' if name == 'caption' else ''}is too long")
        return text, entities

    def _post(
        self,
        bot: FakeBot,
        chat: Chat,
        values: dict[str, Any],
        *,
        text: str,
        entities: list[dict[str, Any]],
        html: str,
        file: File | None = None,
    ) -> dict[str, Any]:
        message = Message(next(self._ids), chat.id, f"@{bot.username}", True, text, html, entities, file)
        message.thread = int(values["message_thread_id"]) if values.get("message_thread_id") else None
        if values.get("reply_parameters"):
            message.reply_to = json.loads(values["reply_parameters"])["message_id"]
        markup = json.loads(values["reply_markup"]) if values.get("reply_markup") else {}
        message.asks = bool(markup.get("force_reply"))
        message.buttons = buttons_of(markup)
        self._keep(chat, message)
        return self._raw(message)

    def _edit(
        self,
        message: Message,
        values: dict[str, Any],
        *,
        text: str,
        entities: list[dict[str, Any]],
        html: str,
        file: File | None,
    ) -> dict[str, Any]:
        buttons = buttons_of(json.loads(values["reply_markup"]) if values.get("reply_markup") else {})
        if (text, file, buttons, html) == (message.text, message.file, message.buttons, message.html):
            raise Refusal(
                400,
                "Bad Request: message is not modified: specified new message content and reply markup are"
                " exactly the same as a current content and reply markup of the message",
            )
        message.text, message.entities, message.html = text, entities, html
        message.file, message.buttons = file, buttons
        self._remember(message)
        return self._raw(message)

    def _act(self, chat: int, who: str, text: str, *, told: bool = False) -> None:
        self.acts.append(Act(next(self._order), time.time(), chat, who, text, told))

    def _keep(self, chat: Chat, message: Message) -> None:
        chat.messages[message.id] = message
        self._remember(message)

    def _remember(self, message: Message) -> None:
        message.history.append(Snapshot(next(self._order), time.time(), message.text, message.file, message.buttons))

    def _raw(self, message: Message) -> dict[str, Any]:
        if message.raw:
            return message.raw
        bot = next((bot for bot in self.bots.values() if f"@{bot.username}" == message.sender), None)
        raw: dict[str, Any] = {
            "message_id": message.id,
            "date": int(time.time()),
            "chat": self._chat(self.chats[message.chat]),
        }
        if bot is not None:
            raw["from"] = {"id": bot.id, "is_bot": True, "first_name": bot.username, "username": bot.username}
        if message.thread is not None:
            raw |= {"message_thread_id": message.thread, "is_topic_message": True}
        if message.file is None:
            raw |= {"text": message.text, "entities": message.entities}
        else:
            raw |= {"caption": message.text, "caption_entities": message.entities}
            file_id = self._file(message.file)
            if message.file.kind == "photo":
                raw["photo"] = [{"file_id": file_id, "file_unique_id": file_id, "width": 640, "height": 480}]
        if message.buttons:
            raw["reply_markup"] = {
                "inline_keyboard": [
                    [
                        {
                            "text": button.label,
                            **({"url": button.url} if button.url else {"callback_data": button.data}),
                        }
                        for button in row
                    ]
                    for row in message.buttons
                ]
            }
        return raw

    def _file(self, file: File) -> str:
        for file_id, known in self.files.items():
            if known is file:
                return file_id
        file_id = f"file{len(self.files) + 1}"
        self.files[file_id] = file
        return file_id

    @staticmethod
    def _chat(chat: Chat) -> dict[str, Any]:
        name = {"first_name": chat.title} if chat.type == "private" else {"title": chat.title}
        return {"id": chat.id, "type": chat.type, **name}

    @staticmethod
    def _user(user: User) -> dict[str, Any]:
        return {"id": user.id, "is_bot": False, "first_name": user.name, "language_code": user.language}

    @staticmethod
    def _entities(text: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        if text.startswith("/"):
            found.append({"type": "bot_command", "offset": 0, "length": units(text.split()[0])})
        for word in text.split():
            if word.startswith("@"):
                found.append({"type": "mention", "offset": units(text[: text.index(word)]), "length": units(word)})
        return found
