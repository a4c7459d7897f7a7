"""What an error of ComfyUI means for a job, and what a person is told of it. Pure.

The person reads what happened, what was lost and what comes next; node numbers, tracebacks and paths are the
operator's, in ``details``, which the engine logs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tessera.errors import EngineError, InvalidInput, ModelMissing, OutOfMemory, TesseraError
from tessera.manifests import Manifest

RETURNED = "The tokens are returned."
MEMORY_WORDS = (
    "out of memory",
    "outofmemory",
    "can't allocate memory",
    "not enough memory",
    "cudnn_status_alloc_failed",
)
FILE_WORDS = ("no such file", "not found in", "model not found", "does not exist", "error while deserializing header")
WEIGHT_INPUTS = ("ckpt", "unet", "clip", "vae", "lora", "model", "control_net", "style", "gligen")
UNFIT = frozenset({"missing_node_type", "prompt_no_outputs"})


def of_refusal(error: Mapping[str, Any], node_errors: Mapping[str, Any], manifest: Manifest) -> TesseraError:
    """A prompt that the server would not take, or would run only a part of."""
    details: dict[str, Any] = {"error": dict(error), "node_errors": _brief(node_errors)}
    missing = [message for message, kind in _node_messages(node_errors) if kind == "missing"]
    if missing:
        return ModelMissing(
            f"The model {manifest.model} cannot run here: {'; '.join(missing[:3])}. {RETURNED} Choose another model; "
            "the operator puts the file in its place (docs/engines.md).",
            **details,
        )
    if error.get("type") in UNFIT:
        return ModelMissing(
            f"The model {manifest.model} cannot run here: {_sentence(error.get('message'))} {RETURNED} Choose another "
            "model; the operator installs what is missing, or corrects the workflow.",
            **details,
        )
    limits = [(node, e) for node, e in _errors(node_errors) if str(e.get("type", "")).startswith("value_")]
    if limits and (name := _parameter(manifest, limits)) is not None:
        return InvalidInput(
            f"'{name}' is outside of what this model can do: {_text(limits[0][1])}. Nothing was charged; change it.",
            **details,
        )
    why = "; ".join(message for message, _ in _node_messages(node_errors)[:2]) or _sentence(error.get("message"))
    return ModelMissing(
        f"The workflow of the model {manifest.model} does not fit this server: {why.rstrip('.')}. {RETURNED} Choose "
        "another model; 'tessera workflows check' tells the operator more.",
        **details,
    )


def of_execution(error: Mapping[str, Any], manifest: Manifest) -> TesseraError:
    """A prompt that ended with ``execution_error``."""
    message, kind = str(error.get("exception_message") or ""), str(error.get("exception_type") or "")
    node = str(error.get("node_type") or "a node")
    details: dict[str, Any] = {"node": node, "node_id": error.get("node_id"), "exception": kind, "why": message[:2000]}
    text = f"{kind} {message}".lower()
    if any(word in text for word in MEMORY_WORDS):
        return OutOfMemory(**details)
    if "FileNotFoundError" in kind or (any(word in text for word in FILE_WORDS) and "load" in node.lower()):
        return ModelMissing(
            f"A file of the model {manifest.model} is missing or broken. {RETURNED} Choose another model.",
            **details,
        )
    return EngineError(f"The model {manifest.model} failed at its work ({node}). {RETURNED}", **details)


def _errors(node_errors: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    found: list[tuple[str, Mapping[str, Any]]] = []
    for node, value in node_errors.items():
        errors = value.get("errors") if isinstance(value, dict) else None
        found += [(str(node), e) for e in errors if isinstance(e, dict)] if isinstance(errors, list) else []
    return found


def _node_messages(node_errors: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong, in words, and ``missing`` where a file of weights is."""
    found = []
    for node, error in _errors(node_errors):
        extra = error.get("extra_info")
        extra = extra if isinstance(extra, dict) else {}
        name, value = str(extra.get("input_name") or ""), extra.get("received_value")
        value_of = node_errors[node].get("class_type", "node") if isinstance(node_errors[node], dict) else "node"
        if error.get("type") == "value_not_in_list" and isinstance(value, str) and _is_weights(name, value):
            found.append((f"the file '{value}' is not there ({name} of {value_of})", "missing"))
        else:
            found.append((f"{value_of}: {_text(error)}", "other"))
    return found


def _is_weights(name: str, value: str) -> bool:
    return any(name.startswith(word) for word in WEIGHT_INPUTS) and ("." in value or name.endswith("_name"))


def _parameter(manifest: Manifest, errors: list[tuple[str, Mapping[str, Any]]]) -> str | None:
    """The job's parameter that an error is about, or None where it is the workflow's own value."""
    for node, error in errors:
        extra = error.get("extra_info")
        name = extra.get("input_name") if isinstance(extra, dict) else None
        for parameter, places in manifest.bind.items():
            if f"{node}.{name}" in places:
                return parameter.value
    return None


def _text(error: Mapping[str, Any]) -> str:
    message, details = str(error.get("message") or "").strip(), str(error.get("details") or "").strip()
    return f"{message} ({details[:200]})" if details else message or "no reason given"


def _sentence(text: Any) -> str:
    said = str(text or "no reason given").strip()[:300]
    return said if said.endswith(".") else f"{said}."


def _brief(node_errors: Mapping[str, Any]) -> dict[str, list[str]]:
    brief: dict[str, list[str]] = {}
    for node, error in _errors(node_errors):
        brief.setdefault(node, []).append(f"{error.get('type')}: {_text(error)}")
    return brief
