"""A pseudo-terminal, as a person has it: what is shown only there, and what Ctrl-C does."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time


class Terminal:
    """A command in a pseudo-terminal of its own, as a person has it."""

    def __init__(self, *arguments: str, columns: int = 100) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        environ = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR"}}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tessera.cli", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**environ, "TERM": "xterm-256color"},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.raw = ""

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.raw).replace("\r", "")

    def until(self, wanted: str, timeout_s: float = 20) -> None:
        end = time.monotonic() + timeout_s
        while wanted not in self.text:
            assert time.monotonic() < end, f"no {wanted!r} in {self.text!r}"
            if not self._read():
                assert wanted in self.text, f"ended without {wanted!r}: {self.text!r}"

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> int:
        while self._read():
            pass
        os.close(self._master)
        return self.process.wait(20)

    def _read(self) -> bool:
        if not select.select([self._master], [], [], 20)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux's way to say that the other side is closed
            return False
        self.raw += data.decode(errors="replace")
        return bool(data)
