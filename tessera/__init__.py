"""Tessera: a paid AI-inference service on ordinary PCs.

The package holds the platform; Ray is imported only in ``scheduler/actor.py``, ``cli`` and ``local/``.
"""

__version__ = "0.1.0"
