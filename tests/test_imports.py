"""Importing and asking for help cost next to nothing, and bring no torch."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
# CPU time, since the machine does other things: the best of several, and stop at the first that is good.
TRIES = 8


def seconds(code: str, *arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=ENVIRONMENT, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def best(code: str, *arguments: str, limit: float) -> float:
    least = float("inf")
    for _ in range(TRIES):
        least = min(least, seconds(code, *arguments))
        if least < limit:
            break
    return least


def modules_after(code: str) -> set[str]:
    shown = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sorted(sys.modules))"],
        env=ENVIRONMENT, cwd=ROOT, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return set(shown.stdout.split())


def test_import_is_fast() -> None:
    assert best("import uapfast", limit=0.3) < 0.3


def test_help_is_fast() -> None:
    code = "import sys; from uapfast.cli import main; sys.exit(main())"
    assert best(code, "--help", limit=0.5) < 0.5


@pytest.mark.parametrize("code", ["import uapfast", "import uapfast.cli.app", "from uapfast import Verdict"])
def test_import_brings_nothing_heavy(code: str) -> None:
    heavy = {"torch", "numpy", "scipy", "sklearn", "matplotlib", "rich", "jinja2", "safetensors"}
    assert not heavy & modules_after(code)


def test_a_source_tree_without_its_core_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import uapfast
    from uapfast import _native

    monkeypatch.setattr(_native, "why_missing", lambda name: "it was not built")
    with pytest.warns(uapfast.errors.UapfastWarning, match="without its compiled core.*pip install -e"):
        uapfast._look_for_core()
    monkeypatch.setattr(_native, "why_missing", lambda name: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        uapfast._look_for_core()


def test_a_source_tree_without_its_core_is_told_once_and_by_the_diagnostics() -> None:
    code = (
        "import sys, uapfast._native as n, uapfast, uapfast.__main__ as m\n"
        "sys.modules['uapfast._cpu'] = None\n"
        "uapfast.Verdict; uapfast.load; uapfast.verify; m.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.count("without its compiled core") == 1, done.stderr
    assert re.search("CPU kernels +off: .*in this source tree.*pip install -e", done.stdout)


def test_every_public_name_is_there() -> None:
    import uapfast

    assert set(uapfast.__all__) <= set(dir(uapfast))
    for name in uapfast.__all__:
        assert getattr(uapfast, name) is not None, name
    with pytest.raises(AttributeError, match="no_such_name"):
        uapfast.no_such_name  # noqa: B018


def test_dir_names_what_is_not_loaded_yet() -> None:
    code = "import uapfast, sys; print(*dir(uapfast)); assert 'torch' not in sys.modules"
    found = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert {"verify", "screen", "Reference", "errors"} <= set(found.stdout.split())


def test_our_log_is_silent_until_an_application_asks_for_it() -> None:
    code = "import uapfast, logging; logging.getLogger('uapfast.verbs.verify').error('lost')"
    found = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert found.stdout == found.stderr == ""


def test_verbs_are_functions_even_after_their_modules_are_imported() -> None:
    import uapfast
    import uapfast.verbs.encode
    import uapfast.verbs.generate
    import uapfast.verbs.verify

    assert callable(uapfast.generate) and callable(uapfast.encode) and callable(uapfast.verify)
