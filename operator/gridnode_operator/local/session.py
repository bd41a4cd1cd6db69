"""One run of ``gridnode up``: the stack, the file that is watched, the screen, and signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import typer
import uvloop
from rich.console import Console
from rich.live import Live

from gridnode.errors import GridNodeError
from gridnode_operator.api import GridNode
from gridnode_operator.local.data_directory import DataDirectory
from gridnode_operator.local.display import Display
from gridnode_operator.local.sources import Sources, StatusFiles
from gridnode_operator.local.stack import Addresses, LocalStack, StackView

_TICK: Final = 0.25
_THREADS: Final = 32
_OPEN_FILES: Final = 65_536  # two for each phone that is connected
#: A closed terminal stops everything, too.
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(file: Path, gridnodes: Sequence[GridNode], data: DataDirectory, addresses: Addresses, screen: Screen) -> None:
    """Run the GridNodes of a file until a signal says stop.

    Args:
        file: Read again whenever it changes.
        gridnodes: What it holds now.
        data: In use by this process.
        addresses: Where to listen.
        screen: Shows what happens.

    Raises:
        GridNodeError: they can't be started; nothing is left running then.
    """
    _allow_many_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(Sources(file, gridnodes, data.nodes), data, addresses, screen))


class Screen:
    """Prints what happens: a live table on a terminal, lines elsewhere, JSON for programs.

    Args:
        display: How views look.
        console: Where to.
        as_json: One object for each change, and nothing else on standard output.
    """

    def __init__(self, display: Display, console: Console, *, as_json: bool) -> None:
        self.display = display
        self._console = console
        self._as_json = as_json
        self._live: Live | None = None
        self._shown: dict[str, str] = {}
        self._explained: set[str] = set()

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """The table stays at the bottom of the terminal while the block runs."""
        if self._as_json or not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as self._live:
            yield
        self._live = None

    def tell(self, text: str) -> None:
        """Print something that has happened."""
        if self._as_json:
            typer.echo(text, err=True)
        else:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, view: StackView, *, stopping: bool = False) -> None:
        """Show what there is now."""
        if self._as_json:
            self._show_change("", json.dumps(self.display.as_json(view, stopping=stopping), ensure_ascii=False))
            return
        if view.master_ready and not stopping and "" not in self._explained:
            self._explained.add("")
            self.tell(self.display.how_to_ask_master(view))
        for each in view.gridnodes:
            if each.settled and not stopping and each.gridnode.key not in self._explained:
                self._explained.add(each.gridnode.key)
                self.tell(self.display.how_to_manage(each))
        if self._live is not None:
            self._live.update(self.display.table(view, stopping=stopping), refresh=True)
        else:
            for each in view.gridnodes:
                self._show_change(each.gridnode.key, self.display.line(each, view.heard_of(each)))

    def _show_change(self, of: str, text: str) -> None:
        if self._shown.get(of) != text:
            self._shown[of] = text
            typer.echo(text)


async def _run(sources: Sources, data: DataDirectory, addresses: Addresses, screen: Screen) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="up"))
    stopping = asyncio.Event()
    stack = LocalStack(data, addresses, screen.tell)
    statuses = StatusFiles(data.nodes)
    statuses.clear()
    for number in _SIGNALS:
        # nohup lets it go on when the terminal is closed.
        if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, _stop_or_kill, stopping, stack)
    with screen.on():
        try:
            await stack.start(sources.gridnodes)
            while not stopping.is_set():
                _reload(sources, stack, screen)
                await stack.apply(sources.gridnodes)
                screen.show(stack.view())
                statuses.write(screen.display.statuses(stack.view()))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), _TICK)
        finally:
            statuses.clear()
            await _stop(stack, screen)


async def _stop(stack: LocalStack, screen: Screen) -> None:
    stop = asyncio.create_task(stack.stop())
    while not stop.done():
        screen.show(stack.view(), stopping=True)
        await asyncio.wait([stop], timeout=_TICK)
    await stop


def _reload(sources: Sources, stack: LocalStack, screen: Screen) -> None:
    """Take over what they hold now, all of it or nothing."""
    try:
        changed = sources.changed()
        if changed is not None:
            stack.check(changed)
            sources.gridnodes = changed
            screen.tell("the GridNodes have changed")
    except GridNodeError as error:
        screen.tell(f"a change can't be used, and everything goes on as it was: {error.message}")


def _stop_or_kill(stopping: asyncio.Event, stack: LocalStack) -> None:
    if stopping.is_set():
        stack.kill()
    stopping.set()


def _allow_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
