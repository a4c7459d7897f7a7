"""What an engine brings to be held against the rules: itself, its jobs, and the knobs of the server behind it.

``tests/conformance/cases.py`` has the rules, one function each. A module ``tests/conformance/harness_<engine>.py``
plugs an engine in by being there: it has ``def harnesses(environ) -> list[HarnessMaker]``. One maker gives a harness
on the engine's fake; where the environment names a real server (``COMFYUI_URL=…``), a second one drives that.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import ClassVar

from tessera.engine import Engine, EngineJob


class NotRun(Exception):
    """A case cannot be run on this server: the reason, for a person. On a fake that is a failure."""


class HarnessKind(StrEnum):
    """What stands behind the engine."""

    FAKE = "fake"  # a server of tests/fakes on a real socket: every case must run
    REAL = "real"  # a server that was given by its address: what it cannot show is reported as not run
    LIBRARY = "library"  # no server at all: the engine's own process or subprocess does the work


class Harness(abc.ABC):
    """One engine and what it drives, made anew for each case.

    A knob that a server does not have raises NotRun. ``without`` names cases that mean nothing for an engine without a
    server (kind LIBRARY only), each with the reason.
    """

    name: str  # the column of the table: "comfyui (fake)"
    kind: HarnessKind
    slots: int = 1
    hang_s: float = 120.0  # two cores are shared with other work
    models_are_loaded_first: bool = False  # whether a run needs ``ensure`` before it
    without: ClassVar[Mapping[str, str]] = {}

    @abc.abstractmethod
    async def open(self) -> None:
        """Start what is needed. Raises OSError when a server that was given by its address cannot be reached."""

    @abc.abstractmethod
    async def close(self) -> None:
        """End everything that ``open`` and the knobs have started."""

    @abc.abstractmethod
    def engine(self) -> Engine:
        """An engine as a new process would make it, over the same server. The harness closes it."""

    @abc.abstractmethod
    def quick(self) -> EngineJob:
        """A new job that ends within a few seconds and has every kind of result that this engine makes."""

    @abc.abstractmethod
    def slow(self) -> EngineJob:
        """A new job that goes on for at least 30 s unless it is cancelled, and soon tells progress."""

    def small(self) -> EngineJob:
        """A new job of the kind of which the engine takes several in one call, where it does."""
        return self.quick()

    def heavy(self) -> EngineJob:
        """A slow job whose model has to be loaded, where an engine knows that."""
        return self.slow()

    def bad(self) -> EngineJob:
        """A new job that the engine refuses with InvalidInput."""
        raise NotRun("this engine refuses no input")

    def of_missing_model(self) -> EngineJob:
        """A new job of a model that the engine serves and whose files the server does not have."""
        raise NotRun("no model is missing here")

    async def submissions(self, job: EngineJob, attempt: int) -> int | None:
        """How often this attempt was begun on the server; None where the server does not tell."""
        return None

    # ------------------------------------------------------------------ knobs

    async def kill(self) -> None:
        """SIGKILL, as far as anybody can see: connections break, new ones are refused, all runs are forgotten."""
        raise NotRun("this server is not ours to kill")

    async def start(self) -> None:
        """Start the killed server again, on the same address."""
        raise NotRun("this server is not ours to start")

    async def delay_answers(self, seconds: float) -> None:
        """From now on each answer comes that much later; 0 ends it."""
        raise NotRun("this server cannot be slowed down")

    async def answer_garbage(self, on: bool) -> None:
        """From now on answers are no JSON, or JSON of the wrong shape; False ends it."""
        raise NotRun("this server cannot be made to answer nonsense")

    async def break_connections(self) -> None:
        """Break every open connection once; new ones are taken. Runs go on."""
        raise NotRun("this server's connections cannot be broken")

    async def run_out_of_memory_once(self) -> None:
        """The next run needs more memory than there is."""
        raise NotRun("this server cannot be brought out of memory on purpose")

    async def deliver_too_much_once(self) -> None:
        """The next run's result is larger than anything that was asked for."""
        raise NotRun("this server cannot be made to deliver too much")


HarnessMaker = Callable[[], Harness]
