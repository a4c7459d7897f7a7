"""Batch work: a file of prompts in, a folder of results out, resumable (docs/batch.md).

``tessera batch FILE --out DIR`` and ``ray job submit -- python -m tessera.batch FILE --out DIR`` are the same. It is a
client of the API like any other: what it submits goes through the same admission and quota, on the batch tier.
"""
