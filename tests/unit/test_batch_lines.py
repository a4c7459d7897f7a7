"""A batch file, read: three formats, each line checked before anything is submitted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tessera.batch.lines import BatchFileError, read_file
from tessera.jobs import Kind


def written(folder: Path, *rows: Any, name: str = "prompts.jsonl") -> Path:
    path = folder / name
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def test_prompts_are_read_with_what_they_name(tmp_path: Path) -> None:
    file = read_file(
        written(
            tmp_path,
            {"prompt": "a fox", "max_tokens": 5},
            "",
            {"id": "b", "kind": "image", "prompt": "a bear", "width": 512, "model": "preview-image"},
            {"kind": "speech", "prompt": "Hello."},
            {"kind": "image", "input": {"prompt": "a crow", "image": "upl_1"}},
        )
    )
    first, second, third, fourth = file.lines
    assert (first.number, first.custom_id, first.kind) == (1, "line-1", Kind.TEXT)
    assert first.input == {"prompt": "a fox", "max_tokens": 5}
    assert (second.number, second.custom_id, second.model) == (3, "b", "preview-image")
    assert third.input == {"text": "Hello."}
    assert fourth.input["image"] == "upl_1" and fourth.files == {}


def test_a_table_is_read_with_numbers_as_numbers_and_files_beside_it(tmp_path: Path) -> None:
    text = 'id,prompt,width,seed,image\na,"a fox, red",512,7,\nb,007,,,in/cat.png\n'
    file = read_file(written(tmp_path, text.rstrip("\n"), name="p.csv"), kind=Kind.IMAGE)
    first, second = file.lines
    assert first.input == {"prompt": "a fox, red", "width": 512, "seed": 7}
    assert second.input == {"prompt": "007"} and second.files == {"image": tmp_path / "in" / "cat.png"}


def test_lines_of_openai_become_inputs(tmp_path: Path) -> None:
    def line(number: int, url: str, **body: Any) -> dict[str, Any]:
        return {"custom_id": f"r{number}", "method": "POST", "url": url, "body": {"model": "m", **body}}

    parts = [{"type": "text", "text": "Hi"}]
    file = read_file(
        written(
            tmp_path,
            line(
                1,
                "/v1/chat/completions",
                messages=[{"role": "user", "content": parts}],
                max_completion_tokens=9,
                stop=".",
            ),
            line(2, "/v1/completions", prompt="Once"),
            line(3, "/v1/images/generations", prompt="a fox", n=2, size="512x256"),
            line(4, "/v1/audio/speech", input="Hello", voice="alloy", response_format="mp3"),
            line(5, "/v1/embeddings", input="x"),
        )
    )
    assert [one.kind for one in file.lines] == [Kind.TEXT, Kind.TEXT, Kind.IMAGE, Kind.SPEECH, None]
    assert file.lines[0].input == {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9, "stop": ["."]}
    assert file.lines[2].input == {"prompt": "a fox", "count": 2, "width": 512, "height": 256}
    assert file.lines[3].input["format"] == "mp3"
    assert file.lines[4].error is not None and "/v1/chat/completions" in file.lines[4].error
    assert {one.model for one in file.lines[:4]} == {"m"}


@pytest.mark.parametrize(
    "row",
    [
        "{not json",
        "[1]",
        {"prompt": ""},
        {"prompt": "x", "temperature": 9},
        {"prompt": "x", "unknown": 1},
        {"kind": "poem", "prompt": "x"},
        {"input": "x"},
        {"prompt": "x", "model": 1},
        {"id": True, "prompt": "x"},
        {"url": "/v1/chat/completions", "body": []},
        {"url": "/v1/chat/completions", "body": {"messages": "x"}},
        {"url": "/v1/images/generations", "body": {"prompt": "x", "size": "large"}},
    ],
)
def test_a_line_that_cannot_be_understood_is_kept_with_its_error(tmp_path: Path, row: Any) -> None:
    file = read_file(written(tmp_path, row, {"prompt": "good"}))
    assert file.lines[0].error and file.lines[0].kind is None
    assert file.lines[1].error is None


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "no lines"), (b"\xff\xfe", "not UTF-8"), (b'{"id":1,"prompt":"x"}\n{"id":"1","prompt":"y"}', "same id")],
)
def test_a_file_that_is_no_batch_is_refused_as_a_whole(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    with pytest.raises(BatchFileError, match=why):
        read_file(path)
    with pytest.raises(BatchFileError, match="cannot be read"):
        read_file(tmp_path / "missing.jsonl")
