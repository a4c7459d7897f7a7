"""The subprocess that transcribes: holds the models and runs the library. Nothing here knows of jobs.

``python -m deployments.whisper.child``. CTranslate2 computes without Python's lock: a cancel is heard between two
segments, at most 30 s of sound apart.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ctranslate2
from faster_whisper import WhisperModel

from deployments.child.main import Call, Fatal, serve
from deployments.whisper.audio import Window, length_s, windows
from tessera.errors import EngineError, InvalidInput, OutOfMemory

# What CTranslate2 and CUDA say when memory is wanting.
OUT_OF_MEMORY = ("out of memory", "alloc_failed", "failed to allocate", "bad_alloc", "cannot allocate")
# After these the context of the device is lost, and with it every model on it.
DEVICE_LOST = ("cuda", "cublas", "cudnn")


class Transcriber:
    """The models of one process."""

    def __init__(self) -> None:
        self._models: dict[str, WhisperModel] = {}
        self._loading = threading.Lock()

    def load(self, call: Call) -> Mapping[str, Any]:
        """``{model, path, device, compute_type, threads, workers}`` → the languages it knows."""
        wanted = call.head
        with self._loading:
            if wanted["model"] not in self._models:
                try:
                    self._models[wanted["model"]] = WhisperModel(
                        wanted["path"],
                        device=wanted["device"],
                        compute_type=wanted["compute_type"],
                        cpu_threads=wanted["threads"],
                        num_workers=wanted["workers"],
                        local_files_only=True,
                    )
                except (RuntimeError, ValueError, OSError) as error:
                    raise _meaning(error, f"The model {wanted['model']} cannot be loaded") from error
        model = self._models[wanted["model"]]
        return {"languages": model.supported_languages, "device": model.model.device}

    def about(self, call: Call) -> Mapping[str, Any]:
        """``{device}`` → what CTranslate2 sees of it: how many there are, and what it computes with."""
        gpus = ctranslate2.get_cuda_device_count()
        device = call.head["device"] if call.head["device"] != "auto" else ("cuda" if gpus else "cpu")
        if device == "cuda" and not gpus:
            raise EngineError("CTranslate2 sees no GPU. Is there a driver, and has the worker num_gpus?")
        return {"device": device, "gpus": gpus, "computes": sorted(ctranslate2.get_supported_compute_types(device))}

    def unload(self, call: Call) -> Mapping[str, Any]:
        """``{model}``: forget it and give its memory back to this process."""
        with self._loading:
            model = self._models.pop(call.head["model"], None)
            if model is not None:
                model.model.unload_model()
                del model
                gc.collect()
        return {}

    def transcribe(self, call: Call) -> Mapping[str, Any]:
        """``{model, path, language, translate, prompt, words, options}`` → events ``segment`` and ``heard``, then
        ``{language, duration_s}``."""
        wanted = call.head
        model = self._models[wanted["model"]]
        total_s = length_s(Path(wanted["path"]))
        language: str | None = wanted["language"]
        call.tell("begun", total_s=total_s)
        end_s = 0.0
        try:
            for window in windows(Path(wanted["path"])):
                call.check()
                language = self._window(model, call, window, language, total_s)
                end_s = window.end_s
                call.tell("heard", at_s=end_s)
        except (RuntimeError, ValueError) as error:
            raise _meaning(error, "The recording cannot be transcribed") from error
        return {"language": language or wanted["language"] or "en", "duration_s": end_s}

    def _window(
        self, model: WhisperModel, call: Call, window: Window, language: str | None, total_s: float
    ) -> str | None:
        """Tell the window's segments; gives the language, once one was heard."""
        wanted = call.head
        if not len(window.samples):
            return language
        segments, info = model.transcribe(
            window.samples,
            language=language,
            task="translate" if wanted["translate"] else "transcribe",
            hotwords=wanted["prompt"] or None,
            word_timestamps=wanted["words"],
            **wanted["options"],
        )
        limit_s = max(window.end_s, 0.0)
        for segment in segments:
            language = language or info.language  # of silence, any language is a guess
            start_s = min(window.start_s + float(segment.start), limit_s)
            end_s = min(max(window.start_s + float(segment.end), start_s), limit_s)
            call.tell(
                "segment",
                start_s=start_s,
                end_s=end_s,
                text=segment.text,
                words=[
                    {
                        "start_s": min(window.start_s + float(word.start), limit_s),
                        "end_s": min(window.start_s + float(word.end), limit_s),
                        "text": word.word.strip(),
                    }
                    for word in segment.words or ()
                ],
            )
        return language


def _meaning(error: Exception, what: str) -> Exception:
    """What a failure of the library is to whoever asked."""
    said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    lowered = said.lower()
    if any(word in lowered for word in OUT_OF_MEMORY):
        return OutOfMemory(f"{what}: the device has too little memory ({said}). The tokens are returned.")
    if any(word in lowered for word in DEVICE_LOST):
        return Fatal(EngineError(f"{what}: {said}. The tokens are returned; the device is started anew."))
    if isinstance(error, ValueError) and "language" in lowered:
        return InvalidInput(f"{what}: {said}. Nothing was charged.")
    return EngineError(f"{what}: {said}. The tokens are returned.")


def main() -> None:
    """Answer the replica until it is gone."""
    ctranslate2.set_random_seed(0)  # only the fallback at higher temperatures draws at all
    transcriber = Transcriber()
    serve(
        {
            "about": transcriber.about,
            "load": transcriber.load,
            "unload": transcriber.unload,
            "transcribe": transcriber.transcribe,
        }
    )


if __name__ == "__main__":
    main()
