"""/docs: the description of the API as one page, rendered from /openapi.json without any outside address.

/docs/errors is where the `type` of each problem points to: every code, what it means and what to do. Without a script.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from functools import cache
from importlib import resources

from fastapi import APIRouter, Response

from tessera.api.problems import error_codes

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


_ERRORS_HEAD = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Tessera: error codes</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }
:root { color-scheme: light dark }
dt { margin-top: 1.2rem; font-weight: 600 } dd { margin: 0 } code { font-size: 1.05em }
:target { background: Mark; color: MarkText } .soft { font-weight: 400; opacity: .7 }
</style>
<h1>Error codes</h1>
<p>Every refusal is a problem (RFC 9457) whose <code>code</code> is one of these and never changes its meaning. Its
<code>detail</code> says what happened in this case. <i>Try again</i>: the same request can succeed later, after
<code>Retry-After</code> where it is given. <i>Change it first</i>: the same request is refused again. A code <i>of a
job</i> is in <code>error.code</code> of a job that failed; whether its tokens came back is in
<code>error.refunded_tokens</code>. The reference is at <a href="/docs">/docs</a>.</p>
<dl>
"""


@cache
def _errors_page() -> bytes:
    """Every code with its status, its meaning, and what to do."""
    lines = [_ERRORS_HEAD]
    for about in error_codes():
        code, status = html.escape(about["code"]), about.get("status", "of a job")
        what = "try again" if about["retryable"] else "change it first"
        lines.append(
            f'<dt id="error-{code}"><code>{code}</code> <span class="soft">{status} · {what}</span></dt>\n'
            f"<dd>{html.escape(about['message'])}</dd>\n"
        )
    return "".join([*lines, "</dl>\n</html>\n"]).encode()


@router.get("/docs/errors", include_in_schema=False)
async def errors() -> Response:
    """The page of error codes."""
    headers = {
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none';"
        " frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
    return Response(_errors_page(), media_type="text/html", headers=headers)
