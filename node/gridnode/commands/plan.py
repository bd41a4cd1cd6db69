"""``gridnode plan``: build a training plan from a script, judge it for each phone runtime, and read it."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from rich.console import Console

from gridnode.errors import InvalidRequest
from gridnode.plans.gate import TARGETS, VerdictTable, check_plan, check_targets
from gridnode.plans.listing import list_operations, list_torchscript
from gridnode.plans.plan import parse_plan
from gridnode.plans.variants import plan_variants

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=False)

_FILE: Final[dict[str, Any]] = {"exists": True, "dir_okay": False, "readable": True}
PlanFile = Annotated[Path, typer.Argument(metavar="FILE", help="A plan, as `gridnode plan build` writes it.", **_FILE)]
REFUSED = 1


@app.callback()
def plan() -> None:
    """Build training plans for phones, judge them and read them.

    Examples:

        gridnode plan build script.py

        gridnode plan check plan.bin
    """


@app.command()
def build(
    script: Annotated[
        Path, typer.Argument(help="Python script that leaves the result of build_plan in `plan`.", **_FILE)
    ],
    out: Annotated[Path, typer.Option(help="File to write the plan to.")] = Path("plan.bin"),
    model: Annotated[Path, typer.Option(help="File to write the parameters to.")] = Path("model.bin"),
) -> None:
    """Run a script that builds a plan, write the plan and its parameters, and judge it for each phone runtime.

    The script is ordinary Python and needs PyTorch: pip install 'gridnode[torch]'. docs/authoring.md has one to start from.

    Examples:

        gridnode plan build script.py

        gridnode plan build script.py --out digits-plan.bin --model digits-model.bin
    """  # noqa: E501 - an example must be one line to be pasted
    from gridnode.sdk.plans import BuiltPlan

    sys.path.insert(0, str(script.parent.resolve()))
    built = runpy.run_path(str(script)).get("plan")
    if not isinstance(built, BuiltPlan):
        raise InvalidRequest(f"{script} leaves no plan: end it with `plan = build_plan(…)`")
    for path in (out, model):
        if not path.parent.is_dir():
            raise InvalidRequest(f"{path} can't be written: there is no directory {path.parent}")
    built.save(out, model)
    count = len(built.parameters)
    typer.echo(f"Wrote {out} ({len(built.data)} bytes) and {model} ({count} parameter{'' if count == 1 else 's'}).")
    for variant, reason in built.left_out.items():
        typer.echo(f"Without {variant}: {reason}")
    typer.echo()
    _print_table(check_plan(built.data))
    typer.echo(
        f"\nNext:\n  gridnode host --model {model} --plan {built.name}={out} --client-config … --server-config …"
    )


@app.command()
def check(
    file: PlanFile,
    target: Annotated[
        list[str] | None, typer.Option(help=f"Only these runtimes; once for each of {', '.join(TARGETS)}.")
    ] = None,
    output: Annotated[Literal["text", "json"], typer.Option("--output", "-o", help="Form of the result.")] = "text",
) -> None:
    """Tell which phone runtimes can run a plan, and why others can't; exit code 1 if one of them can't.

    Examples:

        gridnode plan check plan.bin

        gridnode plan check plan.bin --target kotlinsyft --target swiftsyft-0.5
    """
    targets = tuple(target or TARGETS)
    check_targets(targets, "--target")
    table = check_plan(file.read_bytes())
    chosen = VerdictTable(table.plan, tuple(verdict for verdict in table if verdict.target in targets))
    if output == "json":
        verdicts = [
            {
                "target": verdict.target,
                "runtime": verdict.runtime,
                "runs": verdict.runs,
                "reasons": list(verdict.reasons),
            }
            for verdict in chosen
        ]
        typer.echo(json.dumps({"plan": chosen.plan, "verdicts": verdicts}, indent=2, ensure_ascii=False))
    else:
        _print_table(chosen)
    if chosen.refused():
        raise typer.Exit(REFUSED)


@app.command()
def show(
    file: PlanFile,
    variant: Annotated[
        Literal["list", "torchscript", "tfjs"] | None, typer.Option(help="Only this variant; all if not given.")
    ] = None,
) -> None:
    """Print the code of a plan's variants, as phones get them.

    Examples:

        gridnode plan show plan.bin

        gridnode plan show plan.bin --variant tfjs
    """
    data = file.read_bytes()
    variants = plan_variants(data)
    torchscript = parse_plan(data).torchscript
    texts: dict[str, Callable[[], str]] = {
        "list": lambda: list_operations(variants.list),
        "torchscript": lambda: list_torchscript(torchscript) if torchscript else "none: the plan has no TorchScript",
        "tfjs": lambda: f"none: {variants.tfjs_refusal}" if variants.tfjs is None else list_operations(variants.tfjs),
    }
    for name, text in texts.items():
        if variant in (None, name):
            typer.echo(f"# {name}\n{text()}\n")


def _print_table(table: VerdictTable) -> None:
    from rich.table import Table

    shown = Table(title=f"{table.plan} on phones", title_justify="left", title_style="bold")
    for heading in ("target", "runtime", "verdict", "reason"):
        shown.add_column(heading, overflow="fold")
    for verdict in table:
        word = "[green]runs[/green]" if verdict.runs else "[red]refused[/red]"
        shown.add_row(verdict.target, verdict.runtime, word, verdict.reason.replace("[", r"\["))
    Console().print(shown)
