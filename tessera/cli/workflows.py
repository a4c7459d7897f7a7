"""The operator's commands about ComfyUI's workflows: ``workflows list, show, add, check``.

They work on files and on a ComfyUI server, without the platform.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from tessera.cli.exits import CliError, ExitCode
from tessera.cli.options import JsonOption
from tessera.cli.screen import Screen, clean, table

if TYPE_CHECKING:
    from deployments.comfyui.checking import Problem
    from deployments.comfyui.proposals import Proposal
    from tessera.manifests import Manifest

app = typer.Typer(no_args_is_help=True, help="The workflows that ComfyUI runs: list, show, add one of yours, check.")

UrlOption = Annotated[
    str,
    typer.Option("--url", metavar="URL", envvar="COMFYUI_URL", help="The ComfyUI server to ask."),
]
DEFAULT_URL = "http://127.0.0.1:8188"
DEFAULT_VRAM_MIB = 8000


def register(parent: typer.Typer, panel: str) -> None:
    """Add the commands of this module."""
    parent.add_typer(app, name="workflows", rich_help_panel=panel)


@app.command("list")
def list_(json: JsonOption = False) -> None:
    """List the workflows: those that come with Tessera, and those of this installation."""
    screen = Screen(json=json)
    found, problems = _installed()
    if json:
        screen.print_json({"data": [_as_json(manifest) for manifest in found], "problems": problems})
        return
    rows = table("MODEL", "FROM", "WORKFLOW", "VRAM", "FILES", "WHERE", right=("VRAM", "FILES"))
    memory = {m.model: m.entry.vram_mib for m in found if m.entry is not None}
    for manifest in sorted(found, key=lambda m: (m.model, m.mode != "text", m.mode)):
        rows.add_row(
            Text(clean(manifest.model), style="bold"),
            manifest.mode.value,
            clean(manifest.name),
            f"{memory.get(manifest.model, 0) / 1024:.0f} GiB",
            str(len(manifest.files)),
            "shipped" if _is_shipped(manifest) else clean(str(manifest.folder)),
        )
    screen.print_table(rows)
    for problem in problems:
        screen.say(Text(clean(problem), style="yellow"))


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="A workflow or a model.")], json: JsonOption = False) -> None:
    """Show a workflow: what is bound to which input, which files it needs and where they are to be had."""
    screen = Screen(json=json)
    found, _ = _installed()
    chosen = [manifest for manifest in found if name in (manifest.name, manifest.model)]
    if not chosen:
        raise CliError(f"There is no workflow or model '{name}'. 'tessera workflows list' shows those that there are.")
    if json:
        screen.print_json({"data": [_as_json(manifest) for manifest in chosen]})
        return
    for manifest in chosen:
        screen.say(Text(f"{clean(manifest.name)}  ({manifest.model}, from {manifest.mode.value})", style="bold"))
        if manifest.entry is not None:
            screen.say(Text(f"{clean(manifest.entry.description)}"))
            screen.say(Text(f"Price: {manifest.entry.price}. VRAM: {manifest.entry.vram_mib} MiB."))
            screen.say(Text(f"Licence: {manifest.entry.licence}, {manifest.entry.licence_url}"))
        rows = table("PARAMETER", "INPUTS")
        for parameter, places in manifest.bind.items():
            rows.add_row(parameter.value, ", ".join(places) or "none")
        screen.print_table(rows)
        files = table("FILE", "FOLDER", "SOURCE")
        for file in manifest.files:
            files.add_row(clean(file.name), f"models/{clean(file.folder)}", clean(file.source) or "–")
        screen.print_table(files)


@app.command(
    "add",
    epilog="""[bold]Examples[/bold]

[cyan]tessera workflows add portrait.json[/cyan]   as the model 'portrait'

[cyan]tessera workflows add portrait.json --model portrait-xl --vram 9000 --url http://pc1:8188[/cyan]""",
)
def add(
    file: Annotated[Path, typer.Argument(metavar="EXPORTED.json", help="From ComfyUI: Workflow → Export (API).")],
    model: Annotated[str, typer.Option("--model", help="The model's id; the file's name unless said.")] = "",
    title: Annotated[str, typer.Option("--title", help="The model's name for people.")] = "",
    vram: Annotated[
        int | None,
        typer.Option("--vram", metavar="MIB", help="What its models take when loaded; 8000 unless it has none."),
    ] = None,
    licence_url: Annotated[str, typer.Option("--licence-url", help="Where the terms of its weights stand.")] = "",
    url: UrlOption = DEFAULT_URL,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no server: propose from the names alone.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a workflow of the same name.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the manifest; write nothing.")] = False,
    json: JsonOption = False,
) -> None:
    """Take a workflow of yours: propose its bindings, check them against the server, write its manifest."""
    from deployments.comfyui.manifest_text import frame_step_of, manifest_text
    from deployments.comfyui.proposals import propose
    from deployments.comfyui.workflows import GraphError, Workflow, parse_graph
    from tessera.manifests import OPERATORS_FOLDER, ManifestError, parse_manifest

    screen = Screen(json=json)
    try:
        graph = parse_graph(file.read_text(encoding="utf-8"), where=str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{file} cannot be read ({error}). Nothing was written.") from error
    except GraphError as error:
        raise CliError(f"{error} Nothing was written.") from error
    name = model or re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-")
    infos = {} if offline else _ask(url)
    proposal = propose(graph, infos)
    text = manifest_text(
        proposal,
        model=name,
        title=title or name.replace("-", " ").capitalize(),
        vram_mib=vram if vram is not None else DEFAULT_VRAM_MIB if proposal.files else 0,
        licence="see the link" if licence_url else "unknown: ask its author before others use it",
        licence_url=licence_url,
        frame_step=frame_step_of([node["class_type"] for node in graph.values()]),
    )
    folder = _home() / OPERATORS_FOLDER
    try:
        manifest = parse_manifest(text, name=name, folder=folder)
    except ManifestError as error:
        told = " ".join(proposal.doubts)
        raise CliError(f"The workflow cannot be used as it is: {error} {told} Nothing was written.") from error
    problems = _problems(Workflow(manifest=manifest, graph=graph), infos, asked=not offline)
    taken = [path for path in (folder / f"{name}.toml", folder / f"{name}.json") if path.exists()]
    if taken and not replace and not dry_run:
        raise CliError(f"{taken[0]} is there already. Nothing was written: choose another --model, or add --replace.")
    if not dry_run:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / f"{name}.json") if not _is_envelope(file) else _write_graph(folder, name, graph)
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    if json:
        written = None if dry_run else str(folder / f"{name}.toml")
        screen.print_json(
            {
                "manifest": _as_json(manifest),
                "doubts": proposal.doubts,
                "problems": [_problem_json(problem) for problem in problems],
                "written": written,
            }
        )
    else:
        _tell_proposal(screen, proposal, problems, text, None if dry_run else folder / f"{name}.toml", name, offline)
    if problems:
        raise typer.Exit(ExitCode.FAILED)


@app.command("check")
def check(
    names: Annotated[list[str] | None, typer.Argument(help="Workflows or models; all unless said.")] = None,
    url: UrlOption = DEFAULT_URL,
    json: JsonOption = False,
) -> None:
    """Check workflows against a server: which node and which file is missing, by name. Exit 1 where one is."""
    from deployments.comfyui.workflows import GraphError, load_workflow

    screen = Screen(json=json)
    found, broken = _installed()
    chosen = [m for m in found if not names or m.name in names or m.model in names]
    if not chosen:
        raise CliError(f"There is no workflow or model '{(names or ['?'])[0]}': see 'tessera workflows list'.")
    infos = _ask(url)
    results: dict[str, list[Problem] | str] = {}
    for manifest in chosen:
        try:
            results[manifest.name] = _problems(load_workflow(manifest), infos, asked=True)
        except GraphError as error:
            results[manifest.name] = str(error)
    if json:
        shown = {
            name: [{"lack": "graph", "name": name, "message": told}]
            if isinstance(told, str)
            else [_problem_json(problem) for problem in told]
            for name, told in results.items()
        }
        screen.print_json({"data": shown, "problems": broken})
    else:
        for name, told in results.items():
            if not told:
                screen.say(Text.assemble(("✓ ", "bold green"), clean(name)))
                continue
            screen.say(Text.assemble(("✗ ", "bold red"), clean(name)))
            for message in [told] if isinstance(told, str) else [problem.message for problem in told]:
                screen.say(Text(f"    {clean(message)}"))
        for problem in broken:
            screen.say(Text(clean(problem), style="yellow"))
    if broken or any(results.values()):
        raise typer.Exit(ExitCode.FAILED)


# ---------------------------------------------------------------------- beneath


def _home() -> Path:
    from tessera.config import find_home

    return find_home(os.environ, Path.cwd())


def _installed() -> tuple[list[Manifest], list[str]]:
    from tessera.manifests import installed

    return installed(_home())


def _is_shipped(manifest: Manifest) -> bool:
    from tessera.manifests import SHIPPED

    return manifest.folder == SHIPPED


def _ask(url: str) -> dict[str, Any]:
    """All that a server says of its nodes. Leaves the command where it does not answer, or is something else."""
    from deployments.comfyui.client import BadAnswer, ComfyClient, ServerAway

    async def asked() -> dict[str, Any]:
        client = ComfyClient(url)
        try:
            if await client.is_kobold():
                raise CliError(f"{url} is a KoboldCPP, no ComfyUI: give ComfyUI's address with --url.")
            return dict(await client.node_infos())
        except ServerAway as error:
            why = error.details.get("why", "")
            raise CliError(
                f"{url} does not answer ({why}). Start ComfyUI, give its --url, or use --offline."
            ) from error
        except BadAnswer as error:
            raise CliError(f"{url} is no ComfyUI: {error.message}") from error
        finally:
            await client.close()

    return asyncio.run(asked())


def _problems(workflow: Any, infos: dict[str, Any], *, asked: bool) -> list[Problem]:
    from deployments.comfyui.checking import check as compare

    return compare(workflow, infos) if asked else []


def _is_envelope(file: Path) -> bool:
    import json as json_module

    return isinstance(json_module.loads(file.read_text(encoding="utf-8")).get("prompt"), dict)


def _write_graph(folder: Path, name: str, graph: Any) -> None:
    import json as json_module

    (folder / f"{name}.json").write_text(json_module.dumps(graph, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _as_json(manifest: Manifest) -> dict[str, Any]:
    return {**manifest.model_dump(mode="json"), "shipped": _is_shipped(manifest)}


def _problem_json(problem: Problem) -> dict[str, str]:
    return {"lack": problem.lack.value, "name": problem.name, "message": problem.message}


def _tell_proposal(
    screen: Screen,
    proposal: Proposal,
    problems: list[Problem],
    text: str,
    written: Path | None,
    name: str,
    offline: bool,
) -> None:
    rows = table("PARAMETER", "INPUTS")
    for parameter, places in proposal.bind.items():
        rows.add_row(parameter.value, ", ".join(places) or "none")
    screen.print_table(rows)
    for doubt in proposal.doubts:
        screen.say(Text(f"? {clean(doubt)}", style="yellow"))
    for problem in problems:
        screen.say(Text(f"✗ {clean(problem.message)}", style="red"))
    if offline:
        screen.say(Text("No server was asked: 'tessera workflows check' compares it with one.", style="dim"))
    if written is None:
        screen.say(Text(text))
        return
    screen.say(Text.assemble(("✓ ", "bold green"), f"Written: {written}"))
    if problems:
        screen.say(Text(f"Put that right first, then run 'tessera workflows check {name}'.", style="dim"))
    else:
        screen.say(Text(f"Name '{name}' in a comfyui worker of the cluster file, then run 'tessera up'.", style="dim"))
