"""Batches: JSON Lines in, a job for each line, JSON Lines out."""
