"""The command ``tessera``.

Modules that declare commands import only typer, rich and the standard library, so that ``--help`` and completion are
instant; what a command needs beyond that is imported when it runs.
"""

from tessera.cli.app import main

__all__ = ["main"]
