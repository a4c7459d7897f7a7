"""Every route of OpenAI's shapes and of batches: who may not, is told so in the shape of the address."""

from __future__ import annotations

import re

from tests.integration.api_server import Api

UNKNOWN = {
    "video_id": "job_01k0000000000000000000000c",
    "file_id": "file_01k0000000000000000000000c",
    "batch_id": "batch_01k0000000000000000000000c",
    "model": "nothing",
}


async def routes(api: Api) -> list[tuple[str, str]]:
    _, description = await api.call("GET", "/openapi.json")
    return [
        (method.upper(), re.sub(r"\{(\w+)[^}]*\}", lambda match: UNKNOWN[match[1]], path))
        for path, methods in description["paths"].items()
        if path.startswith(("/openai/", "/v1/batches"))
        for method in methods
    ]


async def test_without_a_key_every_route_is_401(api: Api) -> None:
    found = await routes(api)
    assert len(found) >= 29
    for method, path in found:
        answer, body = await api.call(method, path, key=None)
        assert answer.status == 401, (method, path, body)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        code = body["error"]["code"] if path.startswith("/openai/") else body["code"]
        assert code == ("invalid_api_key" if path.startswith("/openai/") else "unauthorized"), (method, path)


async def test_a_key_that_may_only_read_changes_nothing(api: Api) -> None:
    reader = await api.add_key(scopes=["read"])
    for method, path in await routes(api):
        answer, body = await api.call(method, path, key=reader)
        if method == "GET":
            assert answer.status in (200, 404), (path, body)
        else:
            assert answer.status == 403, (method, path, body)


async def test_a_service_key_asks_for_a_person_under_openai_too(api: Api) -> None:
    await api.sql.execute("UPDATE users SET is_admin = true WHERE id = $1", api.user_id)
    service = await api.add_key(user_id=api.user_id, scopes=["service"])
    headers = {"Tessera-On-Behalf-Of": "telegram:123"}
    answer, body = await api.call("GET", "/openai/v1/models", key=service)
    assert (answer.status, body["error"]["code"]) == (403, "forbidden")
    answer, body = await api.call("GET", "/openai/v1/videos", key=service, headers=headers)
    assert (answer.status, body["data"]) == (200, [])


async def test_what_is_unknown_is_404_and_says_nothing_of_others(api: Api) -> None:
    for method, path in await routes(api):
        if any(value in path for value in UNKNOWN.values()):
            answer, body = await api.call(method, path)
            assert answer.status == 404, (method, path, body)
