"""The build: what setup.py may do, what the switch says, and that every package is installed."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def configure(tmp_path: Path, cuda: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    import pybind11

    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    environment = {**os.environ, **({"PATH": path} if path else {})}
    for variable in ("CUDACXX", "CUDA_PATH", "CUDA_HOME"):
        environment.pop(variable, None)
    command = [cmake, "-S", str(ROOT), "-B", str(tmp_path), f"-DPython_EXECUTABLE={sys.executable}"]
    command += [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-DUAPFAST_CUDA={cuda}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def bare_path(tmp_path: Path) -> str:
    """A PATH with a compiler and make, and without nvcc."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("c++", "g++", "gcc", "cc", "make", "ninja", "ld", "as", "ar", "ranlib", "uname", "sh"):
        found = shutil.which(name)
        if found:
            (tools / name).symlink_to(found)
    return str(tools)


def test_the_switch_is_checked(tmp_path: Path) -> None:
    done = configure(tmp_path / "b", "MAYBE")
    assert done.returncode != 0 and "UAPFAST_CUDA must be AUTO, ON or OFF, got MAYBE" in done.stderr


def test_without_nvcc_on_is_an_error_with_the_remedy_and_auto_is_not(tmp_path: Path) -> None:
    path = bare_path(tmp_path)
    done = configure(tmp_path / "on", "ON", path)
    text = " ".join(done.stderr.split())
    assert done.returncode != 0 and "put nvcc on PATH" in text and "UAPFAST_CUDA=OFF" in text
    assert configure(tmp_path / "auto", "AUTO", path).returncode == 0


def test_setup_imports_no_torch_and_asks_no_driver() -> None:
    text = (ROOT / "setup.py").read_text()
    names = {a.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import) for a in n.names}
    assert "torch" not in names
    assert not any(word in text for word in ("nvidia-smi", "is_available", "urlopen", "urlretrieve", "http"))


def test_every_folder_of_modules_is_a_package() -> None:
    """find_packages leaves out a folder without __init__.py, and a wheel without it still builds."""
    bare = {p.parent for p in (ROOT / "uapfast").rglob("*.py")} - {
        p.parent for p in (ROOT / "uapfast").rglob("__init__.py")
    }
    assert not bare


def test_without_x86_the_scalar_version_compiles(tmp_path: Path) -> None:
    """arm64 and others: what CMakeLists.txt builds everywhere, and nothing that needs AVX."""
    compiler = shutil.which("aarch64-linux-gnu-g++")
    if compiler is None:
        pytest.skip("no aarch64-linux-gnu-g++ (Debian: apt-get install g++-aarch64-linux-gnu)")
    text = (ROOT / "CMakeLists.txt").read_text()
    sources = text[text.index("set(cpu_sources") :].split(")")[0].split()[1:]
    assert len(sources) > 8 and not any("avx" in name for name in sources)
    flags = ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", f"-I{ROOT / 'csrc/include'}"]
    command = [compiler, *flags, "-O1", "-shared", "-fPIC", "-Wl,-z,defs", "-pthread"]
    command += [*(str(ROOT / name) for name in sources), "-o", str(tmp_path / "core.so")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
