"""Whisper: speech to text with faster-whisper, in a subprocess of the replica's own."""
