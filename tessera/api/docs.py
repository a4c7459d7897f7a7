"""/docs: the description of the API as one page, rendered from /openapi.json without any outside address."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources

from fastapi import APIRouter, Response

router = APIRouter()

_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


@cache
def _page() -> tuple[bytes, str]:
    """The page, and the policy that lets its own script run and nothing else."""
    text = (resources.files("tessera.api") / "docs.html").read_text(encoding="utf-8")
    script = _SCRIPT.search(text)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src 'self';"
        " img-src 'self' data: blob:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text.encode(), policy


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """The documentation."""
    body, policy = _page()
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return Response(body, media_type="text/html", headers=headers)
