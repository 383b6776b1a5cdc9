"""What was measured: the files of ``runs/reference`` that pages show or link to.

They lie outside the folder of the pages. A page links to them as they lie in the repository, so that the link
holds there too; the README, of which pages hold parts, does so from the repository's root.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
FOLDER = "runs/reference"
KINDS = (".png", ".json")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them where the README looks for them."""
    for path in sorted((ROOT / FOLDER).rglob("*")):
        if path.suffix in KINDS:
            uri = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **of_page: Any) -> str:
    """Lead links from ``docs/`` to them."""
    return markdown.replace(f"](../{FOLDER}/", f"]({FOLDER}/")
