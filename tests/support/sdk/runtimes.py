"""The LibTorch versions that phones link, from the wheels of 2020 and 21, and a program that runs plans in them.

Wheels are downloaded once (some 750 MB each, 300 MB are kept) and the program is compiled once, into a cache in the
home directory. The desktop build has the same loader and the same operators as the phones'.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

VERSIONS = ("1.6.0", "1.7.1", "1.8.1")
"""SwiftSyft 0.1.3 links 1.6, SwiftSyft 0.5 links 1.7, KotlinSyft 1.8."""

Array: TypeAlias = NDArray[Any]
Arguments: TypeAlias = Sequence[Array | Sequence[Array]]

_SOURCE = Path(__file__).parent / "runner.cpp"
PLATFORM = ("--platform", "manylinux1_x86_64", "--python-version", "38")
# CUDA's and Python's parts are large and not used, except the small one that libtorch_cpu.so asks for.
_UNUSED = ("libtorch_cuda", "libtorch_python", "libcaffe2", "libnvrtc", "libc10_cuda", "libcudnn")
_DTYPES = {"float32": 0, "int64": 1, "bool": 2}
_NAMES = {number: name for name, number in _DTYPES.items()}


class RunFailed(Exception):
    """The runtime could not load or run the archive; the text is its reason."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """One version of LibTorch, ready to run."""

    version: str
    program: Path

    def load(self, archives: Sequence[bytes]) -> list[str | None]:
        """Load archives; why it failed for each, None where it did not."""
        with tempfile.TemporaryDirectory() as directory:
            jobs = []
            for index, archive in enumerate(archives):
                path = Path(directory) / f"{index}.pt"
                path.write_bytes(archive)
                jobs.append(f"load {path}")
            return self._work(jobs)

    def run_each(self, archives: Sequence[bytes], arguments: Sequence[Arguments]) -> list[list[Array] | str]:
        """Call archives; the outputs of each, or why it failed."""
        return self._call(archives, arguments, "run", "")

    def train(self, archive: bytes, arguments: Arguments, steps: int) -> list[Array]:
        """Call a training plan several times; loss, accuracy and parameters after the last.

        Raises:
            RunFailed: the runtime said no.
        """
        (result,) = self._call([archive], [arguments], "train", f" {steps}")
        if isinstance(result, str):
            raise RunFailed(result)
        return result

    def operators(self) -> list[str]:
        """The schemas of all operators."""
        done = subprocess.run([self.program, "operators"], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    def _call(
        self, archives: Sequence[bytes], arguments: Sequence[Arguments], job: str, suffix: str
    ) -> list[list[Array] | str]:
        with tempfile.TemporaryDirectory() as directory:
            jobs = []
            for index, (archive, given) in enumerate(zip(archives, arguments, strict=True)):
                path = Path(directory) / str(index)
                path.with_suffix(".pt").write_bytes(archive)
                path.with_suffix(".in").write_bytes(_encode(given))
                jobs.append(f"{job} {path}.pt {path}.in {path}.out{suffix}")
            errors = self._work(jobs)
            return [
                _decode((Path(directory) / f"{index}.out").read_bytes()) if error is None else error
                for index, error in enumerate(errors)
            ]

    def _work(self, jobs: Sequence[str]) -> list[str | None]:
        done = subprocess.run(
            [self.program], input="".join(f"{job}\n" for job in jobs), capture_output=True, text=True, check=False
        )
        lines = done.stdout.splitlines()
        if len(lines) != len(jobs):
            raise AssertionError(f"LibTorch {self.version} ended at job {jobs[len(lines)]!r}: {done.stderr[-2000:]}")
        return [None if line == "ok" else line.removeprefix("error ") for line in lines]


def runtime(version: str) -> Runtime:
    """A version, downloaded and compiled if it is not in the cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gridnode" / "libtorch" / version
    base.mkdir(parents=True, exist_ok=True)
    program = base / f"runner-{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]}"
    with _locked(base / "lock"):
        if not (base / "complete").exists():
            _download(version, base)
        if not program.exists():
            _compile(base / "torch", program)
    return Runtime(version, program)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(version: str, base: Path) -> None:
    shutil.rmtree(base / "torch", ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=base) as scratch:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*download, *PLATFORM, f"torch=={version}", "--dest", scratch], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                library = name.startswith("torch/lib/") and not name.startswith(
                    tuple(f"torch/lib/{unused}" for unused in _UNUSED)
                )
                if library or name.startswith("torch/include/"):
                    archive.extract(name, base)
    (base / "complete").touch()


def _compile(torch: Path, program: Path) -> None:
    include, libraries = torch / "include", torch / "lib"
    scratch = program.with_suffix(".part")
    command = ["g++", "-std=c++14", "-O1", "-w", "-D_GLIBCXX_USE_CXX11_ABI=0", f"-I{include}"]
    command += [f"-I{include}/torch/csrc/api/include", str(_SOURCE), "-o", str(scratch), f"-L{libraries}"]
    command += ["-l:libtorch_cpu.so", "-l:libc10.so", f"-Wl,-rpath,{libraries}", "-Wl,--allow-shlib-undefined"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"the runner does not compile against {torch}:\n{done.stderr[-4000:]}")
    scratch.rename(program)


def _encode(arguments: Arguments) -> bytes:
    parts = []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            parts += [b"T", _encode_tensor(argument)]
        else:
            parts += [b"L", struct.pack("<q", len(argument)), *map(_encode_tensor, argument)]
    return b"".join(parts)


def _encode_tensor(tensor: Array) -> bytes:
    header = struct.pack(f"<Bq{tensor.ndim}q", _DTYPES[tensor.dtype.name], tensor.ndim, *tensor.shape)
    return header + np.ascontiguousarray(tensor).tobytes()


def _decode(data: bytes) -> list[Array]:
    tensors = []
    offset = 0
    while offset < len(data):
        dtype, dimensions = struct.unpack_from("<Bq", data, offset + 1)
        offset += 1 + struct.calcsize("<Bq")
        shape = struct.unpack_from(f"<{dimensions}q", data, offset)
        offset += 8 * dimensions
        tensor = np.frombuffer(data, _NAMES[dtype], int(np.prod(shape)), offset).reshape(shape)
        offset += tensor.nbytes
        tensors.append(tensor)
    return tensors
