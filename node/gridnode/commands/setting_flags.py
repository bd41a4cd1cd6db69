"""Settings as command-line flags, and the first steps of every command that uses settings."""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import typer
from rich.markup import escape

from gridnode.logs import configure_logging
from gridnode.settings import Settings, load_settings, secret_values, setting_specs

Result = TypeVar("Result")

_PANEL = "Settings"
_log = logging.getLogger(__name__)


def with_settings(*names: str) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Give a command's function its ``settings`` argument, and flags for them.

    The function is called with the :class:`~gridnode.settings.Settings` of environment, files and flags, after logging
    was configured with them. Secrets get no flag: every user of a machine sees the command lines of all.

    Args:
        names: settings that get a flag; without names all of them do.
    """
    flags = _flags(names)

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        @functools.wraps(function)
        def command(**arguments: Any) -> Result:
            overrides = {name: arguments.pop(name) for name in flags}
            return function(**arguments, settings=start(overrides))

        own = inspect.signature(function, eval_str=True).parameters
        parameters = [parameter for name, parameter in own.items() if name != "settings"]
        command.__signature__ = inspect.Signature([*parameters, *flags.values()])  # type: ignore[attr-defined]
        # Typer reads annotations apart from the signature, and would look up their text in this module.
        command.__annotations__ = {each.name: each.annotation for each in (*parameters, *flags.values())}
        del command.__wrapped__
        return command

    return decorate


def start(overrides: Mapping[str, object]) -> Settings:
    """Load the settings, configure logging with them, and log what is odd about them.

    Args:
        overrides: flags by setting name; None means that the flag was not given.

    Raises:
        InvalidSetting: see :func:`gridnode.settings.load_settings`.
    """
    settings = load_settings(os.environ, overrides)
    configure_logging(settings.log_format, settings.log_level, known_secrets=secret_values(settings))
    for warning in settings.warnings:
        _log.warning(warning)
    return settings


def _flags(names: tuple[str, ...]) -> dict[str, inspect.Parameter]:
    specs = {spec.name: spec for spec in setting_specs() if not spec.secret}
    flags = {}
    for name in names or specs:
        spec = specs[name]
        switch = spec.flag + "/--no-" + spec.flag.removeprefix("--")
        option = typer.Option(
            switch if spec.is_switch else spec.flag,
            help=escape(spec.description),
            rich_help_panel=_PANEL,
            metavar=None if spec.is_switch else "VALUE",
            show_default=False,
        )
        # Text, whatever the setting's type: flags are read by the same rules as variables.
        given: Any = bool | None if spec.is_switch else str | None
        annotation = Annotated[given, option]
        flags[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
    return flags
