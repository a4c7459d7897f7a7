"""A Whisper model of a few hundred KiB with random weights, made in a moment: the real library runs it.

Nothing of it was trained, so its words mean nothing; its shape is the real one's: multilingual, with the tokens of
languages, tasks and times, and heads that align words.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2.specs import WhisperSpec
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

WIDTH, HEADS, MELS, AUDIO_FRAMES, TEXT_TOKENS = 32, 2, 80, 1500, 448
LANGUAGES = ("en", "de", "fr", "es", "it", "uk")
TIMES = [f"<|{step * 0.02:.2f}|>" for step in range(1501)]


def make_tiny_whisper(folder: Path, *, seed: int = 1, multilingual: bool = True) -> Path:
    """Write the model's files into ``folder`` and give it back."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|startoftranscript|>"]
    special += [f"<|{code}|>" for code in LANGUAGES] if multilingual else []
    special += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>"]
    special += ["<|notimestamps|>", *TIMES]
    # CTranslate2 takes a model for a multilingual one by an empty token, which the real vocabulary has, too.
    words = [*letters, *([""] if multilingual else [])]
    vocabulary = [*words, *special]
    _tokenizer(words, special).save(str(folder / "tokenizer.json"))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"feature_size": MELS, "sampling_rate": 16000, "hop_length": 160, "chunk_length": 30, "n_fft": 400})
    )
    spec = _spec(len(vocabulary), np.random.default_rng(seed))
    spec.register_vocabulary(vocabulary)
    ids = {token: index for index, token in enumerate(vocabulary)}
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = [ids["<|endoftext|>"]]
    spec.config.lang_ids = [ids[f"<|{code}|>"] for code in LANGUAGES] if multilingual else []
    spec.config.alignment_heads = [(0, 0), (0, 1)]
    spec.validate()
    spec.optimize(quantization="int8")
    spec.save(str(folder))
    return folder


def _tokenizer(words: list[str], special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab={word: index for index, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return tokenizer


def _spec(words: int, random: np.random.Generator) -> WhisperSpec:
    def weights(*shape: int, scale: float = 0.2) -> np.ndarray[Any, np.dtype[np.float32]]:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    def norm(spec: Any) -> None:
        spec.gamma, spec.beta = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)

    def linear(spec: Any, out: int, into: int) -> None:
        spec.weight, spec.bias = weights(out, into), np.zeros(out, np.float32)

    def attention(spec: Any) -> None:
        norm(spec.layer_norm)
        # Of a self-attention: queries, keys and values in one; else queries, then keys and values.
        shapes = (3, 1) if len(spec.linear) == 2 else (1, 2, 1)
        for part, width in zip(spec.linear, shapes, strict=True):
            linear(part, width * WIDTH, WIDTH)

    def feed_forward(spec: Any) -> None:
        norm(spec.layer_norm)
        linear(spec.linear_0, 2 * WIDTH, WIDTH)
        linear(spec.linear_1, WIDTH, 2 * WIDTH)

    spec = WhisperSpec(1, HEADS, 1, HEADS)
    spec.encoder.conv1.weight, spec.encoder.conv1.bias = weights(WIDTH, MELS, 3), np.zeros(WIDTH, np.float32)
    spec.encoder.conv2.weight, spec.encoder.conv2.bias = weights(WIDTH, WIDTH, 3), np.zeros(WIDTH, np.float32)
    spec.encoder.position_encodings.encodings = weights(AUDIO_FRAMES, WIDTH)
    norm(spec.encoder.layer_norm)
    attention(spec.encoder.layer[0].self_attention)
    feed_forward(spec.encoder.layer[0].ffn)
    spec.decoder.embeddings.weight = weights(words, WIDTH)
    spec.decoder.position_encodings.encodings = weights(TEXT_TOKENS, WIDTH)
    norm(spec.decoder.layer_norm)
    attention(spec.decoder.layer[0].self_attention)
    attention(spec.decoder.layer[0].attention)
    feed_forward(spec.decoder.layer[0].ffn)
    spec.decoder.projection.weight = weights(words, WIDTH, scale=0.5)
    return spec
