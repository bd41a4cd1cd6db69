"""Templates: everything that is put into them is escaped, and a name that they don't know is an error."""

from __future__ import annotations

from importlib import resources
from typing import Any, Final

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from gridnode_operator.master.dashboard import formats
from gridnode_operator.master.dashboard.assets import Assets

#: Where the dashboard is.
ROOT: Final = "/dashboard"


def make_templates(assets: Assets) -> Environment:
    """The environment of all templates."""
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        whole=formats.whole,
        rate=formats.rate,
        figure=formats.figure,
        duration=formats.duration,
        size=formats.size,
        when=formats.when,
        configured=formats.configured,
        rejected_total=formats.rejected_total,
        words=formats.words,
    )
    environment.globals.update(root=ROOT, asset=lambda name: f"{ROOT}/static/{assets.path(name)}")
    return environment


def render(environment: Environment, template: str, **values: Any) -> Markup:
    """A template as HTML."""
    return Markup(environment.get_template(template).render(**values))  # noqa: S704 - templates escape


def _source(name: str) -> str | None:
    file = resources.files(__package__).joinpath("templates", name)
    return file.read_text(encoding="utf-8") if file.is_file() else None
