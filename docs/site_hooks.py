"""What the site needs beyond its pages: files of the checkout, diagrams, and runbooks at their alerts' addresses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url
from pymdownx.superfences import fence_code_format

ROOT: Final = Path(__file__).parents[1]
#: Pages of the site that are files of the checkout.
OUTSIDE: Final = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
#: Fetched by `make docs` where npm is; without it diagrams are shown as their text.
MERMAID: Final = next(iter(sorted(ROOT.glob("build/docs/mermaid-*.min.js"))), None)
_SCRIPT: Final = "assets/mermaid.min.js"
_REDIRECT: Final = (
    '<!doctype html><meta charset="utf-8"><title>{name}</title><meta http-equiv="refresh" content="0; url={target}">'
    '<a href="{target}">{name}</a>\n'
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Have diagrams drawn, if there is something to draw them."""
    if MERMAID is not None:
        fence = {"name": "mermaid", "class": "mermaid", "format": fence_code_format}
        config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is not in docs/."""
    for name, source in OUTSIDE.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    if MERMAID is not None:
        files.append(File.generated(config, _SCRIPT, abs_src_path=str(MERMAID)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between docs/ and the files beside it, as they are in the checkout, lead to pages of the site."""
    if page.file.src_uri in OUTSIDE:
        return re.sub(r"\]\(docs/", "](", markdown)
    for name, source in OUTSIDE.items():
        target = get_relative_url(name, page.file.src_uri) if "/" in page.file.src_uri else name
        markdown = re.sub(rf"\]\((?:\.\./)+{re.escape(source)}(?=[)#])", f"]({target}", markdown)
    return markdown


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Mermaid is large: only pages with a diagram load it, before the theme would look for it elsewhere."""
    if 'class="mermaid"' not in output:
        return output
    return output.replace("</head>", f'<script src="{get_relative_url(_SCRIPT, page.url)}"></script></head>', 1)


def on_post_build(config: MkDocsConfig) -> None:
    """An alert's runbook_url ends with ALERT.md, wherever the runbooks are."""
    for source in (ROOT / "docs" / "runbooks").glob("*.md"):
        place = Path(config.site_dir, "runbooks", source.name)
        place.mkdir(parents=True, exist_ok=True)
        redirect = _REDIRECT.format(name=source.stem, target=f"../{source.stem}/")
        (place / "index.html").write_text(redirect, encoding="utf-8")
