"""Model cards, and the engines that are made of them and of a worker's entry."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from deployments.engines import make_engine
from deployments.koboldcpp.engine import KoboldEngine
from deployments.koboldcpp.making import make_koboldcpp
from deployments.koboldcpp.templates import templates
from deployments.speech.engine import SpeechEngine
from deployments.speech.making import make_speech
from deployments.speech.voices import LANGUAGES, OPENAI
from deployments.whisper.engine import WhisperEngine
from deployments.whisper.making import make_whisper
from tessera import cards
from tessera.catalog import catalog_of
from tessera.config import ConfigError, WorkerConfig, parse_cluster
from tessera.errors import ModelMissing
from tessera.inputs import parse_input
from tessera.jobs import Kind
from tests.fakes.tiny_kokoro import make_tiny_kokoro

SHIPPED = cards.shipped()
OWN_CARD = """
engine = "koboldcpp"
[entry]
kind = "text"
title = "My model"
description = "Mine."
price = "1 token for 2,000 text tokens"
vram_mib = 4000
licence = "MIT"
licence_url = "https://example.org"
[run]
template = "alpaca"
file = "mine.gguf"
"""


def worker(engine: str, *models: str, **more: Any) -> WorkerConfig:
    return WorkerConfig(name="w", engine=engine, models=models, node="pc1", **{"slots": 1, **more})


@pytest.mark.parametrize("card", SHIPPED.values(), ids=lambda card: card.id)
def test_every_shipped_card_can_be_served_and_asked_for(card: cards.Card, tmp_path: Path) -> None:
    engine = make_engine(worker(card.engine, card.id))
    assert isinstance(engine, KoboldEngine | WhisperEngine | SpeechEngine)
    [model] = catalog_of([card.id]).models
    assert (model.kind, model.engine, model.vram_mib) == (card.entry.kind, card.engine, card.entry.vram_mib)
    assert model.licence_url.startswith("https://")
    for example in model.examples:
        parse_input(model.kind, example)
    for voice in card.voices:
        parse_input(Kind.SPEECH, {"text": "x", "voice": voice})
        assert voice in OPENAI or (voice[0] in LANGUAGES and voice[1] in "fm") or len(voice) <= 5
    assert all(file.source for file in card.files)


@pytest.mark.parametrize("card", [c for c in SHIPPED.values() if c.engine == "koboldcpp"], ids=lambda card: card.id)
def test_a_language_models_card_names_its_template_and_what_the_server_calls_it(card: cards.Card) -> None:
    assert card.run["template"] in templates()
    assert card.run["name"] == card.files[0].name.removesuffix(".gguf")


def test_an_operators_card_adds_a_model_and_wins_over_the_shipped_one(tmp_path: Path) -> None:
    folder = tmp_path / "cards"
    folder.mkdir()
    (folder / "mine.toml").write_text(OWN_CARD)
    (folder / "qwen25-7b.toml").write_text(OWN_CARD.replace("My model", "My Qwen"))
    found, problems = cards.installed(tmp_path)
    assert not problems and found["qwen25-7b"].entry.title == "My Qwen" and "kokoro" in found
    catalog = catalog_of(["mine", "qwen25-7b"], home=tmp_path)
    assert [model.title for model in catalog.models] == ["My model", "My Qwen"]
    assert catalog.resolve(Kind.TEXT, None).id == "mine"  # the first that is configured is the default
    make_koboldcpp(worker("koboldcpp", "mine"), {"TESSERA_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("engine = ", "not valid TOML"),
        (OWN_CARD.replace("koboldcpp", "ollama"), "engine: Input should be"),
        (OWN_CARD.replace("vram_mib = 4000", ""), "entry.vram_mib: Field required"),
        (OWN_CARD + "\n[more]\n", "more: Extra inputs are not permitted"),
    ],
)
def test_a_card_that_cannot_be_used_is_told_with_the_entry_and_hides_no_other(
    tmp_path: Path, text: str, problem: str
) -> None:
    folder = tmp_path / "cards"
    folder.mkdir()
    (folder / "wrong.toml").write_text(text)
    (folder / "mine.toml").write_text(OWN_CARD)
    found, problems = cards.installed(tmp_path)
    assert "mine" in found and "wrong" not in found
    assert len(problems) == 1 and problem in problems[0] and "wrong.toml" in problems[0]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (worker("koboldcpp", "qwen25-7b", slots=2), "set slots = 1"),
        (worker("koboldcpp", "qwen25-7b", options={"urll": "x"}), "no option 'urll'"),
        (worker("koboldcpp", "kokoro"), "no card of a model 'kokoro' for koboldcpp"),
        (worker("koboldcpp", "qwen25-7b", options={"password_file": "/no/such/file"}), "password_file cannot be read"),
        (worker("whisper", "whisper-small", options={"device": "tpu"}), "device is one of auto, cpu, cuda"),
        (worker("whisper", "whisper-tinier"), "write .*whisper-tinier.toml"),
        (worker("speech", "kokoro", options={"device": "auto"}), "device is one of cpu, cuda"),
    ],
)
def test_an_entry_that_cannot_work_is_refused_at_once(entry: WorkerConfig, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        make_engine(entry)


def test_a_card_for_a_kcpps_needs_the_servers_name_for_it(tmp_path: Path) -> None:
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "mine.toml").write_text(OWN_CARD.replace("mine.gguf", "mine.kcpps"))
    with pytest.raises(ConfigError, match=r"mine is loaded by mine\.kcpps: what KoboldCPP calls it"):
        make_koboldcpp(worker("koboldcpp", "mine"), {"TESSERA_HOME": str(tmp_path)})
    (tmp_path / "cards" / "mine.toml").write_text(OWN_CARD.replace("alpaca", "alpakka"))
    with pytest.raises(ConfigError, match="no template 'alpakka'"):
        make_koboldcpp(worker("koboldcpp", "mine"), {"TESSERA_HOME": str(tmp_path)})


async def test_files_are_looked_for_in_the_home_or_where_the_worker_says(tmp_path: Path) -> None:
    environ = {"TESSERA_HOME": str(tmp_path / "home")}
    whisper = make_whisper(worker("whisper", "whisper-small"), environ)
    with pytest.raises(ModelMissing, match=r"home/models/whisper/faster-whisper-small.*Systran/faster-whisper-small"):
        whisper.check_files("whisper-small")
    network, voices = make_tiny_kokoro(tmp_path / "voices")
    network.rename(network.with_name("kokoro-v1.0.int8.onnx"))
    voices.rename(voices.with_name("voices-v1.0.bin"))
    speech = make_speech(
        worker("speech", "kokoro", "espeak-ng", options={"folder": str(tmp_path / "voices"), "threads": 1}), environ
    )
    await speech.ensure("kokoro")
    assert (await speech.models()).resident == ("kokoro",)
    await speech.close()


def test_the_commented_examples_of_the_cluster_file_work_once_the_marks_are_taken_away(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "cluster" / "cluster.toml").read_text(encoding="utf-8")
    head, _, example = text.partition("# A PC with a GPU.")
    lines = [re.sub(r"^# ?", "", line) for line in example.splitlines()[1:]]
    cluster = parse_cluster(head + "\n".join(lines))
    there = {worker.name: worker for worker in cluster.workers if worker.node == "pc1"}
    assert set(there) == {"comfyui", "koboldcpp", "whisper", "speech"}
    for each in there.values():
        make_engine(each)
    catalog = catalog_of(model for each in there.values() for model in each.models)
    assert {model.kind for model in catalog.models} == set(Kind)
