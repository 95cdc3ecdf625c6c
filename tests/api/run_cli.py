"""The console script, for tests that need a process: ``python -m tests.api.run_cli screen ...``."""

from __future__ import annotations

import sys

from uapfast.cli import main

if __name__ == "__main__":
    sys.exit(main())
