"""What the client asks about webhooks: the endpoints of the account, their secrets, and the log of deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from tessera.client.delivery_models import (
    AdminDeliveries,
    DeliveriesPause,
    DeliveriesResumed,
    Delivery,
    WebhookEndpoint,
    WebhookSecret,
)
from tessera.client.models import Page
from tessera.client.transport import Transport

_ENDPOINTS = "/v1/webhook-endpoints"


class WebhookCalls:
    """The part of the client that is about webhooks; see ``Client``."""

    _transport: Transport

    async def webhook_endpoints(self) -> tuple[WebhookEndpoint, ...]:
        """The endpoints of the account, the newest first, without their secrets."""
        return (await self._transport.call("GET", _ENDPOINTS, Page[WebhookEndpoint])).data

    async def add_webhook_endpoint(
        self, url: str, *, events: Sequence[str] | None = None, description: str = ""
    ) -> WebhookEndpoint:
        """Send the events of all jobs there from now on; ``secret`` of the answer signs them."""
        body: dict[str, Any] = {"url": url, "description": description}
        if events is not None:
            body["events"] = list(events)
        return await self._transport.call("POST", _ENDPOINTS, WebhookEndpoint, json=body)

    async def webhook_endpoint(self, endpoint_id: str) -> WebhookEndpoint:
        """One endpoint, without its secret."""
        return await self._transport.call("GET", _endpoint(endpoint_id), WebhookEndpoint)

    async def change_webhook_endpoint(
        self,
        endpoint_id: str,
        *,
        url: str | None = None,
        events: Sequence[str] | None = None,
        description: str | None = None,
        disabled: bool | None = None,
    ) -> WebhookEndpoint:
        """Change what is not None. Safe to repeat."""
        given = {
            "url": url,
            "events": list(events) if events is not None else None,
            "description": description,
            "disabled": disabled,
        }
        body = {name: value for name, value in given.items() if value is not None}
        return await self._transport.call("PATCH", _endpoint(endpoint_id), WebhookEndpoint, json=body, repeatable=True)

    async def delete_webhook_endpoint(self, endpoint_id: str) -> None:
        """Send nothing there any more; what waits is given up."""
        await self._transport.exchange("DELETE", _endpoint(endpoint_id), repeatable=False)

    async def test_webhook_endpoint(self, endpoint_id: str) -> Delivery:
        """Send a test; ``delivery`` tells what came of it."""
        return await self._transport.call("POST", f"{_endpoint(endpoint_id)}/test", Delivery)

    async def webhook_secret(self, endpoint_id: str | None = None) -> WebhookSecret:
        """What signs the webhooks of an endpoint; without one, those that jobs themselves name."""
        path = "/v1/webhook-secret" if endpoint_id is None else f"{_endpoint(endpoint_id)}/secret"
        return await self._transport.call("GET", path, WebhookSecret)

    async def rotate_webhook_secret(
        self, endpoint_id: str | None = None, *, overlap_s: float | None = None
    ) -> WebhookSecret:
        """Replace a secret; the old one signs too, for ``overlap_s`` (a day without). Not to be repeated blindly."""
        path = "/v1/webhook-secret/rotate" if endpoint_id is None else f"{_endpoint(endpoint_id)}/rotate"
        body = {} if overlap_s is None else {"overlap_s": overlap_s}
        return await self._transport.call("POST", path, WebhookSecret, json=body)

    async def deliveries(
        self,
        *,
        endpoint_id: str | None = None,
        job_id: str | None = None,
        state: str | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> Page[Delivery]:
        """One page of the webhooks that were or will be sent, the newest first."""
        asked = {"endpoint_id": endpoint_id, "job_id": job_id, "state": state, "cursor": cursor, "limit": limit}
        params = {name: str(value) for name, value in asked.items() if value is not None}
        return await self._transport.call("GET", "/v1/deliveries", Page[Delivery], params=params)

    async def delivery(self, delivery_id: str) -> Delivery:
        """One webhook with its ``log``."""
        return await self._transport.call("GET", f"/v1/deliveries/{quote(delivery_id, safe='')}", Delivery)

    async def replay_delivery(self, delivery_id: str, *, as_operator: bool = False) -> Delivery:
        """Bring it once more under the same id; ``as_operator`` anybody's, to a chat too (scope admin)."""
        root = "/v1/admin/deliveries" if as_operator else "/v1/deliveries"
        return await self._transport.call("POST", f"{root}/{quote(delivery_id, safe='')}/replay", Delivery)

    async def all_deliveries(
        self, *, state: str = "failed", channel: str | None = None, cursor: str | None = None
    ) -> AdminDeliveries:
        """One page of everybody's deliveries, and whether all are paused. Needs the scope admin."""
        asked = {"state": state, "channel": channel, "cursor": cursor}
        params = {name: value for name, value in asked.items() if value is not None}
        return await self._transport.call("GET", "/v1/admin/deliveries", AdminDeliveries, params=params)

    async def pause_deliveries(self, reason: str = "") -> DeliveriesPause:
        """Bring nothing to webhooks and chats. Needs the scope admin. Safe to repeat."""
        path = "/v1/admin/deliveries/pause"
        return await self._transport.call("POST", path, DeliveriesPause, json={"reason": reason}, repeatable=True)

    async def resume_deliveries(self) -> DeliveriesResumed:
        """Bring what waits. Needs the scope admin. Safe to repeat."""
        return await self._transport.call("POST", "/v1/admin/deliveries/resume", DeliveriesResumed, repeatable=True)


def _endpoint(endpoint_id: str) -> str:
    return f"{_ENDPOINTS}/{quote(endpoint_id, safe='') if endpoint_id.strip('.') else '-'}"
