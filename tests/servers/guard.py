"""Runs a command, and ends all that it started when standard input closes: its owner is done, or dead.

The owner starts this as the leader of a process group: ``python guard.py COMMAND ...``.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

GRACE = 5.0  # seconds between asking and killing


def main() -> None:
    """Exits with the command's status, or killed by itself."""
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    while child.poll() is None and not select.select([sys.stdin], [], [], 0.05)[0]:
        pass
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # this one stays until the others are gone
    os.killpg(0, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE)
    time.sleep(0.1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
