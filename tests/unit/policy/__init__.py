"""Tests of the scheduling policy: pure, on a virtual clock."""
