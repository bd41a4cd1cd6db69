"""``gridnode retrieve``: save a checkpoint of a hosted model."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from gridnode.commands.management_client import Download, ManagementClient, ManagementUrl, transfer
from gridnode.errors import Conflict, GridNodeError


class NotSaved(GridNodeError):
    """The checkpoint could not be written; nothing is left of it."""


def retrieve(
    name: Annotated[str, typer.Argument(help="Name of the process.")],
    version: Annotated[str | None, typer.Option(help="Its version; the newest if not given.")] = None,
    checkpoint: Annotated[
        str, typer.Option(metavar="N", help="Number of the checkpoint (1 is the model as it was hosted), or 'latest'.")
    ] = "latest",
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write: *.npz for NumPy arrays p0, p1, …; anything else for the State as it is; '-' for "
            "standard output. NAME-VERSION-N.bin if not given.",
        ),
    ] = None,
    force_overwrite: Annotated[bool, typer.Option("--force-overwrite", help="Replace a file that is there.")] = False,
    management_url: ManagementUrl = None,
) -> None:
    """Save a checkpoint of a hosted model: its State, or NumPy arrays.

    Checkpoint 1 is the model as it was hosted, checkpoint N + 1 is what cycle N made of it.

    Examples:

        gridnode retrieve digits

        gridnode retrieve digits --checkpoint 1 --out before.npz

        gridnode retrieve digits --version 1.0 --out digits.bin --force-overwrite

        python -c "import numpy; print(dict(numpy.load('before.npz')))"
    """
    client = ManagementClient.open(management_url)
    process = client.newest(name) if version is None else client.process(name, version)
    if out is not None:
        _check_writable(out, force_overwrite=force_overwrite)
    with client.checkpoint(name, process["version"], checkpoint) as download:
        target = out or Path(_file_name(name, process["version"], download.number))
        _check_writable(target, force_overwrite=force_overwrite)
        with transfer(f"checkpoint {download.number} of {name}", download.size) as moved:
            shape = _save(download, target, moved)
    called = f"checkpoint {download.number} of {name} {process['version']}"
    typer.echo(f"Saved {called} to {'standard output' if _is_pipe(target) else target}{shape}.", err=_is_pipe(target))


def _save(download: Download, target: Path, moved: Callable[[int], None]) -> str:
    """Write the checkpoint; gives what to say of its form."""
    if target.suffix == ".npz":
        content = io.BytesIO()
        _copy(download, content, moved)
        return _save_arrays(content.getbuffer(), target)
    if _is_pipe(target):
        _copy(download, sys.stdout.buffer, moved)
        sys.stdout.buffer.flush()
        return ""
    with _replaced(target) as file:
        _copy(download, file, moved)
    return ""


def _save_arrays(content: memoryview, target: Path) -> str:
    import numpy as np

    from gridnode.protocol.syft_proto import decode_state

    arrays: dict[str, Any] = {f"p{index}": tensor for index, tensor in enumerate(decode_state(content).tensors)}
    with _replaced(target) as file:
        np.savez(file, **arrays)
    shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in arrays.items())
    return f": {shapes}"


def _copy(download: Download, file: IO[bytes], moved: Callable[[int], None]) -> None:
    for chunk in download.chunks:
        file.write(chunk)
        moved(len(chunk))


@contextlib.contextmanager
def _replaced(target: Path) -> Iterator[IO[bytes]]:
    """A file beside the target that takes its place if the block ends well, and is deleted otherwise.

    Raises:
        NotSaved: it can't be written.
    """
    beside = target.with_name(f".{target.name}.part")
    try:
        with beside.open("wb") as file:
            yield file
        os.replace(beside, target)
    except OSError as error:
        raise NotSaved(f"{target} can't be written: {error.strerror}.") from None
    finally:
        beside.unlink(missing_ok=True)


def _check_writable(target: Path, *, force_overwrite: bool) -> None:
    if _is_pipe(target):
        if sys.stdout.isatty():
            raise Conflict("a checkpoint is no text for a terminal: send it to a file or a pipe.")
        return
    if target.is_dir():
        raise Conflict(f"{target} is a directory: name a file in it.")
    if target.exists() and not force_overwrite:
        raise Conflict(f"{target} is there already: choose another --out, or replace it with --force-overwrite.")


def _is_pipe(target: Path) -> bool:
    return str(target) == "-"


def _file_name(name: str, version: str, number: int) -> str:
    return re.sub(r"[^\w.+-]", "_", f"{name}-{version}-{number}") + ".bin"
