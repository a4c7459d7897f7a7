"""Speech: Kokoro's voices on ONNX Runtime, espeak-ng for the languages that they do not speak."""
