"""Records what each phone runtime can do, into the files that the gate judges by.

Run at the top of the repository, with the torch extra, g++ and npm: ``python -m tests.support.sdk.record``
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from tests.support.sdk.runtimes import PLATFORM, VERSIONS, runtime

RECORDED = Path(__file__).parents[3] / "node" / "gridnode" / "plans" / "gate" / "recorded"
PYTORCH = "1.4.0"
TFJS = "1.7.4"
_WRITES_TO_ITS_LAST_ARGUMENT = re.compile(r"\*,[^*]*\(\w!\) \w+[,)]")
# PySyft 0.2.9 gives tensors this method; recorded plans use it.
_PYSYFTS_OWN = ("Tensor.copy",)


def libtorch_lines(operators: dict[str, Iterable[str]]) -> list[str]:
    """One line for each schema: in which versions it is, as 6, 7 and 8, and the schema."""
    versions: dict[str, str] = {}
    for version, schemas in operators.items():
        for schema in schemas:
            if schema.startswith(("aten::", "prim::")) and not _WRITES_TO_ITS_LAST_ARGUMENT.search(schema):
                versions[schema] = versions.get(schema, "") + version.split(".")[1]
    return [f"{digits} {schema}" for schema, digits in sorted(versions.items())]


def record_libtorch() -> list[str]:
    return libtorch_lines({version: runtime(version).operators() for version in VERSIONS})


def record_pytorch() -> list[str]:
    """Names of tensor methods, functions and torch.nn.functional, in the stubs and texts of PyTorch's wheel."""
    with tempfile.TemporaryDirectory() as scratch:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*download, *PLATFORM, f"torch=={PYTORCH}", "--dest", scratch], check=True)
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            names = set(_names(wheel.read("torch/__init__.pyi").decode(), "torch."))
            names |= set(_names(wheel.read("torch/nn/functional.pyi").decode(), "torch.nn.functional."))
            names |= set(_names(wheel.read("torch/tensor.py").decode(), "torch."))
            # The stubs leave methods out that are added with their texts.
            texts = wheel.read("torch/_tensor_docs.py").decode()
            names |= {f"Tensor.{name}" for name in re.findall(r"add_docstr_all\('(\w+)'", texts)}
    return sorted(names | set(_PYSYFTS_OWN))


def _names(source: str, prefix: str) -> Iterable[str]:
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            yield prefix + node.name
        if isinstance(node, ast.ImportFrom) and node.level and not node.module:
            yield from (prefix + alias.name for alias in node.names)
        if isinstance(node, ast.ClassDef) and node.name == "Tensor":
            yield from (f"Tensor.{name}" for item in node.body for name in _defined(item))


def _defined(item: ast.stmt) -> Iterable[str]:
    if isinstance(item, ast.FunctionDef):
        yield item.name
    if isinstance(item, ast.Assign):
        yield from (target.id for target in item.targets if isinstance(target, ast.Name))


def record_tfjs() -> list[str]:
    """Names of the functions that TensorFlow.js exports; syft.js 0.1.4 calls them by the last part of the command."""
    script = (
        "const tf = require('@tensorflow/tfjs-core');"
        "console.log(JSON.stringify(Object.keys(tf).filter(name => typeof tf[name] === 'function')))"
    )
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "package.json").write_text("{}")
        install = ["npm", "install", "--silent", "--no-audit", "--no-fund", f"@tensorflow/tfjs-core@{TFJS}"]
        subprocess.run(install, cwd=scratch, check=True)
        done = subprocess.run(["node", "-e", script], cwd=scratch, check=True, capture_output=True, text=True)
    return sorted(json.loads(done.stdout))


def main() -> None:
    """Write all three files."""
    recordings = {"libtorch.txt": record_libtorch, "pytorch.txt": record_pytorch, "tfjs.txt": record_tfjs}
    for name, record in recordings.items():
        lines = record()
        (RECORDED / name).write_text("".join(f"{line}\n" for line in lines))
        print(f"{name}: {len(lines)} lines")


if __name__ == "__main__":
    main()
