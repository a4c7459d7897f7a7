"""``tessera pause`` and ``unpause`` against a server on a real socket."""

from __future__ import annotations

import json
from typing import Any

from tests.fakes.api_server import FakeApi


def test_a_kind_is_paused_listed_and_served_again(api: FakeApi, run: Any) -> None:
    code, out, err = run("pause", "video", "--message", "Back at 15:00 UTC.")
    assert (code, out) == (0, "") and "No job of kind video starts any more" in err
    assert "new ones are accepted" in err and "'tessera unpause video'" in err
    assert api.pauses["video"]["message"] == "Back at 15:00 UTC."
    code, out, _ = run("pause")
    assert code == 0 and out.splitlines()[1].startswith("video") and "Back at 15:00 UTC." in out
    assert "start again" in run("unpause", "video")[2] and api.pauses == {}
    assert "were not paused: nothing was changed" in run("unpause", "video")[2]
    assert "Nothing is paused" in run("pause")[2]


def test_pauses_are_json_too(api: FakeApi, run: Any) -> None:
    assert json.loads(run("pause", "image", "--json")[1])["message"] == ""
    assert [pause["kind"] for pause in json.loads(run("pause", "--json")[1])["data"]] == ["image"]
    assert json.loads(run("unpause", "image", "--json")[1]) == {"kind": "image", "resumed": True}


def test_what_cannot_be_paused_is_refused_before_anything_is_asked(api: FakeApi, run: Any) -> None:
    assert run("pause", "poems")[0] == 2 and run("unpause")[0] == 2
    code, _, err = run("pause", "--message", "soon")
    assert code == 2 and "name the kind" in err and api.seen == []
