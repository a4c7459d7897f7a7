"""A subprocess with handlers for all that can happen in one: ``python -m tests.fakes.child``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from deployments.child.main import Call, Fatal, serve
from tessera.errors import EngineError, InvalidInput


def count(call: Call) -> Mapping[str, Any]:
    """Tells the numbers up to ``upto``, ``pause_s`` apart."""
    for number in range(int(call.head["upto"])):
        call.check()
        time.sleep(float(call.head.get("pause_s", 0.0)))
        call.tell("number", body=bytes([number % 256]), number=number)
    return {"counted": call.head["upto"]}


def chatter(call: Call) -> Mapping[str, Any]:
    """Prints to standard output, as libraries do."""
    sys.stdout.write("a progress bar of some library\n")
    sys.stdout.flush()
    os.write(1, b"and one from C\n")
    return {}


def fail(call: Call) -> Mapping[str, Any]:
    """Fails as ``how`` says."""
    match call.head["how"]:
        case "refuse":
            raise InvalidInput("That cannot be. Nothing was charged.")
        case "memory":
            raise MemoryError
        case "bug":
            raise KeyError("oops")
        case "fatal":
            raise Fatal(EngineError("The device is lost. The tokens are returned."))
        case "nonsense":
            os.write(int(call.head["pipe"]), b"\xff" * 64)
            time.sleep(30)
    return {}


def environment(call: Call) -> Mapping[str, Any]:
    """What it inherited."""
    return {"names": sorted(os.environ), "offline": os.environ.get("HF_HUB_OFFLINE")}


if __name__ == "__main__":
    if "--dies" in sys.argv:
        sys.exit(3)
    serve({"count": count, "chatter": chatter, "fail": fail, "environment": environment})
