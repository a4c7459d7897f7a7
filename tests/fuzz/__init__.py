"""Fuzzing of the whole HTTP surface: whatever is sent, no 5xx, and every answer is one that the description has."""
