"""Starts, watches and ends the platform's processes on one machine: what ``tessera up`` and ``make up`` stand on.

``runtime`` (folders), ``processes`` (who runs), ``ports`` (where) carry the rest: ``postgres``, ``ray_head``,
``deploy``, ``keeper`` (heals), ``doctor`` (looks), ``logs`` (tells) and ``platform``, which puts them in order.
"""
