"""Engines for all six kinds that run anywhere: no GPU, no weights, no network.

They are previews and say so: every result carries ``engine`` and ``preview: true``. They exist so that ``make up`` on
any machine shows the whole service working. They must not import Ray; the worker wraps them. The heavy libraries
(PyAV, pocketsphinx, espeak-ng) are imported by the module of the kind that needs them, and only by that.
"""
