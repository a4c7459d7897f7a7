"""What may not stand in a tracked file: addresses in lock files, paths of somebody's machine, secrets."""

from __future__ import annotations

import json
import re

import pytest

from tests.architecture.sources import ROOT, tracked

LOCK = ROOT / "requirements.lock"
BINARY = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".ico", ".wav", ".mp3", ".mp4", ".woff2", ".pdf")

# Put together here, so that this file holds none of them itself.
FORBIDDEN = {
    "a path of one machine": "|".join(rf"(?<![\w.-]){'/' + name}/" for name in ("work", "root", r"home/[a-z]\w*")),
    # The names of pip's and uv's settings may stand in a script; what they are set to belongs to the machine.
    "an address of a package index": r"(?i)(?:index[-_]url|find[-_]links|uv_(?:default_)?index)"
    + r"[\"' =:]+(?:https?:/|file:|/)|"
    + re.escape("pypi" + ".org/simple")
    + "|"
    + re.escape("registry." + "npmjs.org"),
    "an API key": "tsr" + r"_[0-9a-f]{16}_[A-Za-z0-9_-]{40,}",
    "a private key": "-----BEGIN [A-Z ]*" + "PRIVATE KEY-----",
}


def test_the_lock_file_holds_no_address() -> None:
    text = LOCK.read_text(encoding="utf-8")
    found = [
        line for line in text.splitlines() if "://" in line or (line.lstrip().startswith("--") and "hash" not in line)
    ]
    assert not found, f"the lock must work with anybody's package index: {found[:5]}"
    assert not re.search(r"\bhttps?:", text)


def test_every_locked_package_is_pinned_and_hashed() -> None:
    text = re.sub(r"\\\n\s*", " ", LOCK.read_text(encoding="utf-8"))
    entries = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    loose = [
        line[:60] for line in entries if not re.match(r"[A-Za-z0-9._-]+(\[[\w,-]+\])?==\S+ .*--hash=sha256:", line)
    ]
    assert entries and not loose, f"not pinned to a version and hashed: {loose[:5]}"


def test_npm_lock_files_hold_no_address() -> None:
    for name in tracked():
        if name.endswith("package-lock.json"):
            packages = json.loads((ROOT / name).read_text(encoding="utf-8"))["packages"]
            assert not [key for key, value in packages.items() if "resolved" in value], name
            loose = [
                key for key, value in packages.items() if key and not value.get("link") and "integrity" not in value
            ]
            assert not loose, f"{name}: without integrity: {loose[:5]}"


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_tracked_file_holds(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = []
    for name in tracked():
        if name.endswith(BINARY):
            continue
        text = (ROOT / name).read_text(encoding="utf-8", errors="replace")
        found += [f"{name}:{text.count(chr(10), 0, m.start()) + 1} {m[0]}" for m in pattern.finditer(text)]
    assert not found, f"{what} in tracked files:\n" + "\n".join(found[:20])
