"""Acts of operators that must not happen twice: with an Idempotency-Key the first answer is given again for 24 hours.

The key is claimed, the act done and its answer kept in one transaction. Who sends the same key at the same time waits
for that, and then gets its answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import Request, Response

from tessera.api.auth import Caller
from tessera.api.jobs.answers import answer, json_bytes
from tessera.api.jobs.submissions import read_idempotency_key
from tessera.api.state import api_of
from tessera.errors import IdempotencyMismatch
from tessera.store.database import Transaction

Act = Callable[[Transaction], Awaitable[dict[str, Any]]]


async def once(request: Request, caller: Caller, act: Act, *, status: int) -> Response:
    """Do an act in a transaction and answer what it returns; under a known Idempotency-Key, what it returned then.

    What the act raises undoes everything, and the key is free again. Raises IdempotencyMismatch for another body.
    """
    key = read_idempotency_key(request.headers.get("idempotency-key"))
    db = api_of(request).services.db
    if key is None:
        async with db.transaction() as transaction:
            return answer(await act(transaction), status)
    digest = hashlib.sha256(request.url.path.encode() + b"\n" + await request.body()).digest()
    async with db.transaction() as transaction:
        claimed = await transaction.execute(
            "claim_operator_answer", user_id=caller.user_id, key=key, body_sha256=digest
        )
        if not claimed:
            kept = await transaction.row("operator_answer", user_id=caller.user_id, key=key)
            assert kept is not None, "an answer is deleted a day after it was given"
            if bytes(kept["body_sha256"]) != digest:
                raise IdempotencyMismatch
            return answer(kept["answer"], status, {"Idempotency-Replayed": "true"})
        done = await act(transaction)
        await transaction.execute(
            "keep_operator_answer", user_id=caller.user_id, key=key, answer=orjson.loads(json_bytes(done))
        )
    return answer(done, status)
