"""The commands that make something: ``generate KIND PROMPT`` and ``transcribe FILE``."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from tessera.cli.exits import CliError
from tessera.cli.options import (
    ForceOption,
    JsonOption,
    ModelOption,
    NoWaitOption,
    OutOption,
    QuietOption,
    SeedOption,
    TierOption,
    given,
    parse_size,
)
from tessera.cli.output import Target, TextFormat
from tessera.cli.screen import Screen, stdin_is_terminal

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""Make something from words: an image, a video, a text, speech or music.

The command waits with live progress, writes the file and says what it cost. Ctrl-C asks whether to cancel the job;
nothing is charged for what was not made.""",
)

PromptArgument = Annotated[str, typer.Argument(metavar="PROMPT", help="What is wanted, in words; '-' reads stdin.")]


class SpeechFormat(StrEnum):
    WAV = "wav"
    MP3 = "mp3"
    OPUS = "opus"


@app.command(
    epilog="""[bold]Examples[/bold]

[cyan]tessera generate image "a lighthouse in a storm, oil painting" --size 1024x768[/cyan]

[cyan]tessera generate image "a red fox" --count 4 --seed 7 --out foxes/[/cyan]

[cyan]tessera generate image "in autumn" --image park.jpg --strength 0.5[/cyan]   change a picture

[cyan]tessera generate image --image small.png --scale 2[/cyan]   enlarge a picture"""
)
def image(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to show, in words; '-' reads stdin.")] = "",
    size: Annotated[str | None, typer.Option("--size", "-s", metavar="WxH", help="Pixels, like 1024x768.")] = None,
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", metavar="N", min=1, max=8, help="How many, each with its own seed."),
    ] = None,
    seed: SeedOption = None,
    negative: Annotated[
        str | None, typer.Option("--negative", metavar="WORDS", help="What should not be in it.")
    ] = None,
    picture: Annotated[
        str | None,
        typer.Option("--image", metavar="FILE", help="Start from this picture (or the id of one)."),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option("--mask", metavar="FILE", help="Change only the white parts of this mask."),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            "--strength",
            metavar="X",
            min=0,
            max=1,
            help="How much of --image may change: 0 nothing, 1 all.",
        ),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option("--scale", metavar="X", min=1, max=4, help="Enlarge --image by this factor."),
    ] = None,
    model: ModelOption = None,
    out: OutOption = None,
    force: ForceOption = False,
    tier: TierOption = None,
    no_wait: NoWaitOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make pictures (PNG) from words, change a picture, or enlarge one."""
    words = _words(prompt, needed=scale is None)
    asked = given(
        prompt=words or None, count=count, seed=seed, negative_prompt=negative, strength=strength, scale=scale
    )
    files = given(image=picture, mask=mask)
    _make(
        "image", asked | parse_size(size), words, files, model, Target(out=out, force=force), tier, no_wait, json, quiet
    )


@app.command(
    epilog="""[bold]Examples[/bold]

[cyan]tessera generate video "waves under a full moon" --duration 3 --out waves.mp4[/cyan]

[cyan]tessera generate video "the clouds move" --image sky.png --size 512x512[/cyan]"""
)
def video(
    prompt: PromptArgument,
    size: Annotated[str | None, typer.Option("--size", "-s", metavar="WxH", help="Pixels, even numbers.")] = None,
    duration: Annotated[
        float | None,
        typer.Option("--duration", "-d", min=0.25, metavar="SECONDS", help="Length of the clip."),
    ] = None,
    fps: Annotated[int | None, typer.Option("--fps", metavar="N", min=1, max=30, help="Frames a second.")] = None,
    seed: SeedOption = None,
    picture: Annotated[str | None, typer.Option("--image", metavar="FILE", help="Begin with this picture.")] = None,
    model: ModelOption = None,
    out: OutOption = None,
    force: ForceOption = False,
    tier: TierOption = None,
    no_wait: NoWaitOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a clip (MP4) from words, or from a picture and words."""
    words = _words(prompt)
    asked = given(prompt=words, duration_s=duration, fps=fps, seed=seed) | parse_size(size)
    _make("video", asked, words, given(image=picture), model, Target(out=out, force=force), tier, no_wait, json, quiet)


@app.command(
    epilog="""[bold]Examples[/bold]

[cyan]tessera generate text "Write a short poem about the sea."[/cyan]

[cyan]cat notes.txt | tessera generate text - --max-tokens 400 > summary.txt[/cyan]

[cyan]tessera generate text "A haiku" --json | jq -r .output.text[/cyan]"""
)
def text(
    prompt: PromptArgument,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", metavar="N", min=1, help="The most text tokens to generate."),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", "-t", metavar="X", min=0, max=2, help="0 sober, 2 wild."),
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", metavar="WORDS", help="End before these words; may be repeated."),
    ] = None,
    seed: SeedOption = None,
    system: Annotated[
        str | None,
        typer.Option("--system", metavar="WORDS", help="How to answer: the system message."),
    ] = None,
    model: ModelOption = None,
    out: OutOption = None,
    force: ForceOption = False,
    tier: TierOption = None,
    no_wait: NoWaitOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Answer a prompt. On a terminal the words appear as they come; into a pipe goes the finished text."""
    words = _words(prompt)
    asked = given(max_tokens=max_tokens, temperature=temperature, seed=seed, stop=stop)
    if system:
        asked["messages"] = [{"role": "system", "content": system}, {"role": "user", "content": words}]
    else:
        asked["prompt"] = words
    _make("text", asked, words, {}, model, Target(out=out, force=force), tier, no_wait, json, quiet)


@app.command(
    epilog="""[bold]Examples[/bold]

[cyan]tessera generate speech "Good morning. The kettle is on." --voice en-gb --out kettle.wav[/cyan]

[cyan]tessera generate speech - --format mp3 --speed 1.2 < chapter.txt[/cyan]"""
)
def speech(
    prompt: Annotated[str, typer.Argument(metavar="TEXT", help="What to say; '-' reads stdin.")],
    voice: Annotated[
        str | None,
        typer.Option("--voice", metavar="VOICE", help="A voice or language, like en-gb or alloy."),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option("--speed", metavar="X", min=0.25, max=4, help="1 is the voice's own."),
    ] = None,
    format: Annotated[SpeechFormat | None, typer.Option("--format", help="The file's format.")] = None,
    model: ModelOption = None,
    out: OutOption = None,
    force: ForceOption = False,
    tier: TierOption = None,
    no_wait: NoWaitOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Speak a text (WAV, MP3 or Opus)."""
    words = _words(prompt)
    asked = given(text=words, voice=voice, speed=speed, format=format.value if format else None)
    _make("speech", asked, words, {}, model, Target(out=out, force=force), tier, no_wait, json, quiet)


@app.command(
    epilog="""[bold]Examples[/bold]

[cyan]tessera generate music "a calm piano in the rain" --duration 20 --out rain.wav[/cyan]"""
)
def music(
    prompt: PromptArgument,
    duration: Annotated[
        float | None,
        typer.Option("--duration", "-d", min=1, max=300, metavar="SECONDS", help="Length."),
    ] = None,
    lyrics: Annotated[
        str | None, typer.Option("--lyrics", help="What is sung, by a model that sings (ace-step).")
    ] = None,
    seed: SeedOption = None,
    model: ModelOption = None,
    out: OutOption = None,
    force: ForceOption = False,
    tier: TierOption = None,
    no_wait: NoWaitOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make music (WAV) from words."""
    words = _words(prompt)
    asked = given(prompt=words, lyrics=lyrics, duration_s=duration, seed=seed)
    _make("music", asked, words, {}, model, Target(out=out, force=force), tier, no_wait, json, quiet)


TRANSCRIBE_EPILOG = """[bold]Examples[/bold]

[cyan]tessera transcribe meeting.wav[/cyan]

[cyan]tessera transcribe talk.mp3 --format srt --out talk.srt[/cyan]

[cyan]tessera transcribe entrevista.wav --language es --translate[/cyan]   into English"""


def transcribe(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The recording (or the id of an upload).")],
    language: Annotated[
        str | None,
        typer.Option("--language", "-l", metavar="CODE", help="ISO 639 code, like en; else found out."),
    ] = None,
    translate: Annotated[bool, typer.Option("--translate", metavar="", help="Into English.")] = False,
    format: Annotated[
        TextFormat, typer.Option("--format", help="Plain text, subtitles, or all there is as JSON.")
    ] = TextFormat.TEXT,
    model: ModelOption = None,
    out: OutOption = None,
    force: ForceOption = False,
    tier: TierOption = None,
    no_wait: NoWaitOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write down the words of a recording: as text on stdout, or as subtitles."""
    asked = given(language=language, translate=translate or None)
    target = Target(out=out, force=force, format=format)
    stem = file.replace("\\", "/").rpartition("/")[2].rpartition(".")[0] or file
    _make("transcription", asked, stem, {"upload": file}, model, target, tier, no_wait, json, quiet)


def _words(prompt: str, *, needed: bool = True) -> str:
    """The prompt, from stdin when it is '-'. Raises CliError when there is none."""
    if prompt == "-":
        if stdin_is_terminal():
            sys.stderr.write("Type the prompt and end it with Ctrl-D:\n")
        prompt = sys.stdin.read().strip()
    if needed and not prompt.strip():
        raise CliError("The prompt is empty: say in words what is wanted. Nothing was submitted.")
    return prompt


def _make(
    kind: str,
    asked: dict[str, object],
    words: str,
    files: dict[str, object],
    model: str | None,
    target: Target,
    tier: object,
    no_wait: bool,
    json: bool,
    quiet: bool,
) -> None:
    from tessera.cli.making import Order, make
    from tessera.jobs import Kind

    order = Order(
        kind=Kind(kind),
        input=asked,
        files={name: str(value) for name, value in files.items()},
        model=model,
        tier=str(tier) if tier is not None else None,
        target=target,
        wait=not no_wait,
        words=words,
    )
    raise typer.Exit(make(order, Screen(json=json, quiet=quiet)))
