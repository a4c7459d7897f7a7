"""One bot's hands in Discord: the core's views as REST calls, and the ladder by which a result finds its person.

A message is changed by the interaction it answers, as long as that lives; then by the bot itself; else the core sends a
new one to the channel, and where the bot may not write there, to the person alone.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from typing import Any

import aiohttp
import discord
from discord.http import Route
from yarl import URL

from bots.core.conversation import Opening, opening_of
from bots.core.incoming import Incoming, MessageRef, Place
from bots.core.platform import FloodWait, MessageGone, NotAllowed, Refused, TooLarge, Unreachable
from bots.core.views import Button, Form, View
from bots.discord.incoming import ORIGINAL
from bots.discord.shapes import EPHEMERAL, MAX_UPLOAD_BYTES, name_of, payload_of

REMEMBERED = 5_000
FETCH_TIMEOUT_S = 60
# https://discord.com/developers/docs/topics/opcodes-and-status-codes#json
UNKNOWN_CHANNEL, UNKNOWN_MESSAGE, UNKNOWN_WEBHOOK, UNKNOWN_INTERACTION = 10003, 10008, 10015, 10062
INVALID_TOKEN, ALREADY_ANSWERED, TOO_LARGE, NOT_OURS = 50027, 40060, 40005, 50005
PICTURE_HOSTS = ("cdn.discordapp.com", "media.discordapp.net")


class InteractionOver(Exception):
    """The interaction cannot be answered any more."""


class DiscordChat:
    """One bot. ``use`` gives it the client of the present connection."""

    upload_limit_bytes = MAX_UPLOAD_BYTES

    def __init__(self, api: str) -> None:
        self._client: discord.Client | None = None
        self._hosts = (*PICTURE_HOSTS, URL(api).host) if api else PICTURE_HOSTS
        self._answered: OrderedDict[str, None] = OrderedDict()

    def use(self, client: discord.Client) -> None:
        """Speak through this client from now on."""
        self._client = client

    async def send(
        self, place: Place, view: View, *, reply_to: str = "", person: str = "", key: str = ""
    ) -> MessageRef:
        """A new message in the channel; where the bot may not write there, to the person alone."""
        payload = payload_of(view, reply_to=reply_to)
        if key:  # a repetition within minutes is answered with the first message, and sends nothing
            payload |= {"nonce": key[-25:], "enforce_nonce": True}
        try:
            made = await self._request("POST", "/channels/{channel_id}/messages", payload, view, channel_id=place.chat)
        except NotAllowed:
            if not person or place.private:
                raise
            return await self._send_alone(view, person, key)
        return MessageRef(place=place, message=str(made["id"]), person=person)

    async def answer(self, incoming: Incoming, view: View) -> MessageRef:
        """By the interaction while it lives: the first answer takes the place of its 'thinking', others follow it."""
        if incoming.token and time.time() < incoming.token_until:
            try:
                return await self._by_interaction(incoming, view)
            except InteractionOver:
                pass
        return await self.send(
            incoming.place, view, reply_to="" if incoming.token else incoming.reply_to, person=incoming.person.subject
        )

    async def edit(self, ref: MessageRef, view: View) -> MessageRef:
        """Make a message show this. Raises MessageGone where neither interaction nor bot can."""
        payload = payload_of(view)
        if ref.token and time.time() < ref.token_until:
            try:
                await self._webhook("PATCH", ref.token, ref.message, payload, view)
                return ref
            except InteractionOver:
                pass
        if ref.message == ORIGINAL:
            raise MessageGone("the interaction is over, and the message has no other name")
        try:
            await self._request(
                "PATCH",
                "/channels/{channel_id}/messages/{message_id}",
                payload,
                view,
                channel_id=ref.place.chat,
                message_id=ref.message,
            )
        except NotAllowed as error:
            raise MessageGone(str(error)) from error
        return ref

    async def notice(self, incoming: Incoming, text: str = "", *, loud: bool = False) -> None:
        """A few words for who pressed; a press itself was acknowledged when it came."""
        if text and incoming.token and time.time() < incoming.token_until:
            payload = {"content": text, "flags": EPHEMERAL, "allowed_mentions": {"parse": []}}
            try:
                await self._webhook("POST", incoming.token, "", payload, None)
            except InteractionOver:
                return

    async def ask(self, incoming: Incoming, form: Form, view: View) -> None:
        """A form can only be the first answer to a press: so here is the button for it."""
        opener = Button(label=form.label, action=form.action)
        lines = view.lines
        await self.answer(
            incoming, View(lines=lines, quote=view.quote, rows=((opener,), *view.rows), only_for_asker=True)
        )

    async def delete(self, ref: MessageRef) -> None:
        """Take it away."""
        if ref.token and time.time() < ref.token_until:
            try:
                await self._webhook("DELETE", ref.token, ref.message, None, None)
                return
            except InteractionOver:
                pass
            except MessageGone:
                return
        if ref.message == ORIGINAL:
            return
        try:
            await self._request(
                "DELETE",
                "/channels/{channel_id}/messages/{message_id}",
                None,
                None,
                channel_id=ref.place.chat,
                message_id=ref.message,
            )
        except (MessageGone, NotAllowed):
            return

    async def file(self, file: str, max_bytes: int) -> bytes:
        """A picture that was sent; only from Discord's own hosts."""
        if URL(file).host not in self._hosts:
            raise Refused("a picture from elsewhere")
        timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(file, allow_redirects=False) as answer,
            ):
                if answer.status != 200:
                    raise Refused(f"the picture cannot be fetched ({answer.status})")
                data = await answer.content.read(max_bytes + 1)
                while len(data) <= max_bytes and (more := await answer.content.read(max_bytes + 1 - len(data))):
                    data += more
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(type(error).__name__) from None
        if len(data) > max_bytes:
            raise TooLarge("larger than can be used")
        return data

    async def is_admin(self, place: Place, subject: str) -> bool:
        """Discord tells it with each interaction (``place.admin``); it is not asked for otherwise."""
        return place.admin

    # The first answer to an interaction, within three seconds

    async def respond(self, interaction_id: str, token: str, kind: int, data: dict[str, Any] | None = None) -> None:
        """Answer an interaction for the first time. One that is too late or was answered already is no error."""
        body: dict[str, Any] = {"type": kind}
        if data is not None:
            body["data"] = data
        try:
            await self._raw(
                Route(
                    "POST",
                    "/interactions/{webhook_id}/{webhook_token}/callback",
                    webhook_id=int(interaction_id),
                    webhook_token=token,
                ),
                body,
                None,
            )
        except (InteractionOver, MessageGone):
            return

    async def _by_interaction(self, incoming: Incoming, view: View) -> MessageRef:
        opening = opening_of(incoming)
        first = opening is not Opening.SAME and incoming.update not in self._answered
        alone = opening is Opening.ASKER or view.only_for_asker
        if first:
            self._answered[incoming.update] = None
            while len(self._answered) > REMEMBERED:
                self._answered.popitem(last=False)
            if not (opening is Opening.EVERYBODY and view.only_for_asker):
                made = await self._webhook("PATCH", incoming.token, ORIGINAL, payload_of(view), view)
                return self._ref(incoming, made)
            # 'Thinking' was shown to everybody, and what there is to say is for the asker alone.
            await self.delete(
                MessageRef(
                    place=incoming.place, message=ORIGINAL, token=incoming.token, token_until=incoming.token_until
                )
            )
        made = await self._webhook("POST", incoming.token, "", payload_of(view, alone=alone), view)
        return self._ref(incoming, made)

    def _ref(self, incoming: Incoming, made: dict[str, Any]) -> MessageRef:
        return MessageRef(
            place=incoming.place,
            message=str(made["id"]),
            token=incoming.token,
            token_until=incoming.token_until,
            person=incoming.person.subject,
        )

    async def _send_alone(self, view: View, person: str, key: str) -> MessageRef:
        opened = await self._request("POST", "/users/@me/channels", {"recipient_id": person}, None)
        place = Place(chat=str(opened["id"]), private=True)
        return await self.send(place, view, person="", key=key)

    async def _webhook(
        self, method: str, token: str, message: str, payload: dict[str, Any] | None, view: View | None
    ) -> dict[str, Any]:
        path = "/webhooks/{webhook_id}/{webhook_token}"
        values: dict[str, Any] = {"webhook_id": self._application, "webhook_token": token}
        if message:
            path, values["message_id"] = f"{path}/messages/{{message_id}}", message
        else:
            path += "?wait=true"
        return await self._raw(Route(method, path, **values), payload, view)

    async def _request(
        self, method: str, path: str, payload: dict[str, Any] | None, view: View | None, **values: Any
    ) -> dict[str, Any]:
        try:
            return await self._raw(Route(method, path, **values), payload, view)
        except InteractionOver as error:  # a code that only webhooks should give
            raise Unreachable(str(error)) from None

    async def _raw(self, route: Route, payload: dict[str, Any] | None, view: View | None) -> dict[str, Any]:
        if self._client is None:
            raise Unreachable("not connected yet")
        options: dict[str, Any] = {}
        if payload is not None and view is not None and view.media:
            form: list[dict[str, Any]] = [
                {"name": "payload_json", "value": json.dumps(payload), "content_type": "application/json"}
            ]
            form += [
                {
                    "name": f"files[{number}]",
                    "value": media.data,
                    "filename": name_of(media),
                    "content_type": media.media_type,
                }
                for number, media in enumerate(view.media)
            ]
            options["form"] = form
        elif payload is not None:
            options["json"] = payload
        try:
            answer = await self._client.http.request(route, **options)
        except discord.RateLimited as error:
            raise FloodWait(error.retry_after) from None
        except discord.HTTPException as error:
            raise _translated(error) from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unreachable(type(error).__name__) from None
        return answer if isinstance(answer, dict) else {}

    @property
    def _application(self) -> int:
        if self._client is None or self._client.application_id is None:
            raise Unreachable("not connected yet")
        return self._client.application_id


def _translated(error: discord.HTTPException) -> Exception:
    """Discord's refusal as the core's. Its text holds no token; its address, which does, is left out."""
    said = f"{error.status}/{error.code} {error.text}"
    if error.code in (UNKNOWN_INTERACTION, UNKNOWN_WEBHOOK, INVALID_TOKEN, ALREADY_ANSWERED):
        return InteractionOver(said)
    if error.code in (UNKNOWN_MESSAGE, NOT_OURS):
        return MessageGone(said)
    if error.status == 413 or error.code == TOO_LARGE:
        return TooLarge(said)
    if error.status == 403 or error.code == UNKNOWN_CHANNEL:
        return NotAllowed(said)
    if error.status == 429:
        retry_after = error.response.headers.get("Retry-After", "5")
        return FloodWait(float(retry_after) if retry_after.replace(".", "", 1).isdigit() else 5.0)
    if error.status >= 500 or error.status == 401:
        return Unreachable(said)
    return Refused(said)
