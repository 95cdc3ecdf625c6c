"""Drives CMakeLists.txt. Imports no torch, asks no driver, downloads nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """One CMake run builds every compiled module; setuptools copies what it left."""

    def run(self) -> None:
        package = Path(self.get_ext_fullpath("uapfast._cpu")).resolve().parent
        if not self.inplace:
            package = Path(self.build_lib).resolve() / "uapfast"
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        # A build environment that pip made and removed leaves paths that exist no more.
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        shutil.rmtree(build / "CMakeFiles", ignore_errors=True)
        configure = [
            "cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DUAPFAST_CUDA={os.environ.get('UAPFAST_CUDA', 'AUTO')}",
            *(f"-D{n}={os.environ[n]}" for n in ("UAPFAST_CUDA_ARCHS", "UAPFAST_WERROR", "UAPFAST_SANITIZE")
              if os.environ.get(n)),
        ]  # fmt: skip
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build), "--parallel", str(os.cpu_count() or 1)], check=True)
        package.mkdir(parents=True, exist_ok=True)
        for stale in package.glob("_cuda.*.so"):
            stale.unlink()
        subprocess.run(["cmake", "--install", str(build), "--prefix", str(package)], check=True)

    def get_outputs(self) -> list[str]:
        return sorted(map(str, (Path(self.build_lib) / "uapfast").glob("_c*.so")))

    def get_output_mapping(self) -> dict[str, str]:
        return {}


setup(
    packages=[*find_packages(include=["uapfast", "uapfast.*"]), "uapfast.kernels"],
    ext_modules=[Extension("uapfast._cpu", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
