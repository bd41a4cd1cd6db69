"""``gridnode up``: GridNodes of a manifest as processes on this machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gridnode.commands.config import Output
from gridnode.settings import load_settings
from gridnode_operator.local.data_directory import DataDirectory
from gridnode_operator.local.display import Display
from gridnode_operator.local.manifests import read_manifests
from gridnode_operator.local.notebook import check_jupyter, notebook_server
from gridnode_operator.local.paths import shown_path
from gridnode_operator.local.session import Screen, run
from gridnode_operator.local.stack import Addresses

Data = Annotated[
    Path | None,
    typer.Option(
        help="Directory for databases, logs and tokens, kept between runs; else `up` in gridnode's data directory, "
        "~/.local/share/gridnode/up.",
        show_default=False,
    ),
]


def up(
    file: Annotated[Path, typer.Option("--file", "-f", help="YAML file with one or more GridNodes.")],
    data: Data = None,
    host: Annotated[
        str, typer.Option(help="Address that phones are let in at; 0.0.0.0 lets those of the network in.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            show_default=False,
            help="Port for phones of the first GridNode, the others get the next free ones; 0: any. "
            "Else exposure.service.port, 5000.",
        ),
    ] = None,
    master_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            show_default=False,
            help="Port of the master node; 0: any. Else 5001, or the next free one.",
        ),
    ] = None,
    notebook: Annotated[
        bool,
        typer.Option("--notebook", help="Run Jupyter too, with the notebooks beside the file, for this machine only."),
    ] = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="json: one object for each change.")] = Output.TABLE,
) -> None:
    """Run GridNodes on this machine, from the same manifest as in a cluster.

    Starts a private PostgreSQL with a schema and a login for each GridNode, migrates it, and runs the replicas behind
    one port. While it runs, the file is watched: add, change and remove GridNodes there. Ctrl-C or `gridnode down`
    stops everything; data are kept.

    Examples:

        gridnode up -f examples/gridnode.yaml

        gridnode up -f examples/gridnode.yaml --data ./data --host 0.0.0.0

        gridnode up -f examples/gridnode.yaml --port 8080 --output json

        gridnode up -f examples/gridnode.yaml --notebook
    """
    if notebook:
        check_jupyter()
    gridnodes = read_manifests(file)
    directory = DataDirectory(data or default_data())
    console = Console()
    screen = Screen(Display(directory, host), console, as_json=output is Output.JSON)
    with directory.used(), contextlib.ExitStack() as beside:
        if notebook:
            beside.enter_context(notebook_server(file, gridnodes[0], directory, screen.tell))
        run(file, gridnodes, directory, Addresses(host=host, device_port=port, master_port=master_port), screen)
    down = "gridnode down" if data is None else f"gridnode down --data {shown_path(directory.path)}"
    screen.tell(f"Stopped. Data are kept in {shown_path(directory.path)}; `{down} --delete` deletes them.")


def default_data() -> Path:
    """Beside the private database of ``gridnode serve``."""
    return load_settings(os.environ).data_dir / "up"
