"""The compiled modules: stubs that tell the truth, errors that say what is missing."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from uapfast import _native
from uapfast.errors import NativeUnavailable

ROOT = Path(__file__).resolve().parents[2]
MODULES = ["_cpu", "_cuda"]


def module(name: str) -> object:
    missing = _native.why_missing(name)
    if missing:
        pytest.skip(missing)
    return _native.cpu() if name == "_cpu" else _native.cuda()


def stub(name: str) -> dict[str, list[str]]:
    tree = ast.parse((ROOT / "uapfast" / f"{name}.pyi").read_text())
    return {n.name: [a.arg for a in n.args.args] for n in tree.body if isinstance(n, ast.FunctionDef)}


@pytest.mark.parametrize("name", MODULES)
def test_the_stub_has_the_functions_and_arguments_of_the_module(name: str) -> None:
    built = module(name)
    functions = {n: getattr(built, n) for n in dir(built) if not n.startswith("_")}
    wanted = stub(name)
    assert set(functions) == set(wanted)
    for function, arguments in wanted.items():
        signature = functions[function].__doc__.splitlines()[0]
        inside = signature[signature.index("(") + 1 : signature.index(") ->")]
        assert re.findall(r"(\w+):", inside) == arguments, function


@pytest.mark.parametrize("name", MODULES)
def test_no_torch_and_no_cudart_to_be_found_at_run_time(name: str) -> None:
    built = module(name)
    linked = subprocess.run(["ldd", built.__file__], capture_output=True, text=True, check=True).stdout  # type: ignore[attr-defined]
    assert not re.search(r"torch|c10|cudart|libcuda|not found", linked), linked


def test_the_compiled_modules_need_no_torch() -> None:
    module("_cpu")
    code = "import sys, uapfast._cpu as c; c.simd_level(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.needs("cuda-extension")
def test_cuda_without_a_device_says_what_is_missing() -> None:
    core = _native.cuda()
    driver, runtime = core.versions()
    assert runtime >= 12000
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    code = "import uapfast._cuda as c; c.device_count()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0 and "NativeUnavailable" in done.stderr
    assert ("driver" if driver == 0 else "GPU") in done.stderr


@pytest.mark.needs("cuda-extension")
def test_the_cuda_core_checks_sizes_and_null_and_says_what_is_missing() -> None:
    core = _native.cuda()
    core.project_lp(0, 0, 0, 0, 5, 5, 5, 1.0, 2.0, 0, 0)  # nothing to do
    with pytest.raises(ValueError, match="project_lp: buffers must not be null"):
        core.project_lp(0, 0, 0, 1, 1, 1, 1, 1.0, 2.0, 0, 0)
    with pytest.raises(ValueError, match="dtype must be float32, float16 or bfloat16, got code 1"):
        core.project_lp(16, 16, 1, 1, 1, 1, 1, 1.0, 2.0, 0, 0)
    with pytest.raises(ValueError, match="eps must be finite"):
        core.project_lp(16, 16, 0, 1, 1, 1, 1, -1.0, 2.0, 0, 0)
    with pytest.raises(NativeUnavailable, match="project_lp: device: cudaError"):
        core.project_lp(16, 16, 0, 1, 1, 1, 1, 1.0, 2.0, 99, 0)
    good = (16, 16, 16, 16, 16, 0, 2, 3, 4, 3, 12, 4, 2.0, 0, 0, 99, 0)
    for place, value, needle in (
        (0, 0, "buffers must not be null"),
        (4, 0, "buffers must not be null"),
        (5, 1, "dtype must be float32, float16 or bfloat16, got code 1"),
        (7, 1, r"grads must have shape \[B, 2 <= K < 2\^30, D\], got \[2, 1, 4\]"),
        (12, 1.0, "p must be 2 or inf"),
    ):
        with pytest.raises(ValueError, match=f"deepfool_step: {needle}"):
            core.deepfool_step(*good[:place], value, *good[place + 1 :])
    with pytest.raises(NativeUnavailable, match="deepfool_step: device: cudaError"):
        core.deepfool_step(*good)
    with pytest.raises(NativeUnavailable, match="deepfool_step: device: cudaError"):
        core.deepfool_step_workspace(0, 2, 3, 4, 99)


def test_a_module_that_was_not_built_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    _native._load.cache_clear()
    monkeypatch.setitem(_native._HOW, "_absent", "do this")
    assert _native.why_missing("_absent") == "uapfast._absent was not built; do this"
    with pytest.raises(NativeUnavailable, match="uapfast._absent was not built; do this"):
        _native._module("_absent")


@pytest.mark.needs("cpu-extension")
def test_the_core_checks_sizes_and_null_itself() -> None:
    core = _native.cpu()
    with pytest.raises(ValueError, match="project_lp: buffers must not be null"):
        core.project_lp(0, 0, 0, 1, 1, 1, 1, 1.0, 2.0, 1, -1)
    with pytest.raises(ValueError, match="sizes >= 0"):
        core.project_lp(0, 0, 0, -1, 1, 1, 1, 1.0, 2.0, 1, -1)
    with pytest.raises(ValueError, match="dtype must be float32 or float64, got code 9"):
        core.project_lp(8, 8, 9, 1, 1, 1, 1, 1.0, 2.0, 1, -1)
    with pytest.raises(ValueError, match="level must be in"):
        core.project_lp(0, 0, 0, 0, 1, 1, 1, 1.0, 2.0, 1, 7)


def test_the_report_may_be_cut_short() -> None:
    """As by ``| head``: no traceback, and no error."""
    command = [sys.executable, "-m", "uapfast"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(120) == 0


def test_diagnostics_list_every_backend_of_every_op() -> None:
    done = subprocess.run([sys.executable, "-m", "uapfast"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    from uapfast.ops._registry import OPS

    for op in OPS.values():
        assert f"  {op.name}" in done.stdout
    lines = [line for line in done.stdout.splitlines() if re.search(r" (on|off)\b", line)]
    assert len(lines) >= sum(len(op.backends) for op in OPS.values())


def test_with_arguments_the_module_is_the_command_line() -> None:
    for given, code in (["--version"], 0), (["verfy"], 2):
        done = subprocess.run(
            [sys.executable, "-m", "uapfast", *given], cwd=ROOT, capture_output=True, text=True
        )
        script = "import sys; from uapfast.cli import main; sys.exit(main())"
        told = subprocess.run(
            [sys.executable, "-c", script, *given], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == told.returncode == code
        assert (done.stdout, done.stderr) == (told.stdout, told.stderr) and done.stdout + done.stderr


def test_diagnostics_without_torch_say_so() -> None:
    code = "import sys; sys.modules['torch'] = None; import uapfast.__main__ as m; sys.exit(m.main())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torch          off, and every op with it" in done.stdout and "Traceback" not in done.stderr


def test_diagnostics_say_why_a_backend_is_off() -> None:
    code = (
        "import uapfast._native as n, uapfast.__main__ as m, sys\n"
        "n._load = lambda name: f'uapfast.{name} was not built'\n"
        "sys.exit(m.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "CPU kernels    off: uapfast._cpu was not built" in done.stdout
    assert re.search(r"cpu +off: uapfast._cpu was not built", done.stdout)
