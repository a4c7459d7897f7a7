"""What the API says of its event streams: one message, and examples of the two streams."""

from __future__ import annotations

# One message of a stream (https://html.spec.whatwg.org/multipage/server-sent-events.html): its three fields are text.
EVENT_MESSAGE = {
    "type": "object",
    "description": "each message; `data` is an Event as JSON",
    "required": ["data"],
    "properties": {
        "id": {"type": "string", "description": "the event's number, for Last-Event-ID; ephemeral events have none"},
        "event": {"type": "string", "description": "the event's type"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/Event"},
        },
    },
}

EVENTS_EXAMPLE = """\
id: 1
event: queued
data: {"id":1,"job_id":"job_…","type":"queued","at":"2030-01-31T12:00:00Z","attempt":0,"data":{}}

event: progress
data: {"job_id":"job_…","type":"progress","at":"2030-01-31T12:00:02Z","attempt":1,"data":{"fraction":0.5,"note":null}}
"""

ALL_EVENTS_EXAMPLE = """\
id: 70211

id: 70214
event: completed
data: {"id":70214,"job_id":"job_…","type":"completed","at":"2030-01-31T12:00:02Z","attempt":1,"data":{}}
"""
