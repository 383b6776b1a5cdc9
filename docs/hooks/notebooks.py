"""Tutorials: each notebook is run when the site is built, and is a page of what it showed.

A cell that fails fails the build. What a notebook writes to ``<its name>_files`` lies beside its page.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

TIMEOUT_S = 900
"""For one cell; it is there to end what hangs, on however slow a machine."""


class Notebook(File):
    """A page whose source is a notebook, so that links to the notebook lead to the page."""

    def is_documentation_page(self) -> bool:
        """It is one."""
        return True


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put a page, its pictures and what it wrote in the place of every notebook."""
    for file in [each for each in files if each.src_uri.endswith(".ipynb")]:
        path = Path(str(file.abs_src_path))
        text, beside = run(path)
        files.remove(file)
        files.append(Notebook.generated(config, file.src_uri, content=text))
        for name, content in beside.items():
            uri = f"{Path(file.src_uri).parent.as_posix()}/{name}"
            files.append(File.generated(config, uri, content=content))
    return files


def run(path: Path) -> tuple[str, dict[str, bytes]]:
    """Run a notebook in an empty folder.

    Returns:
        It with all outputs as Markdown, and the files that belong beside it, by their relative paths.

    Raises:
        CellExecutionError: A cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    folder_name = f"{path.stem}_files"
    with TemporaryDirectory() as folder:
        NotebookClient(
            notebook,
            timeout=TIMEOUT_S,
            startup_timeout=TIMEOUT_S,
            resources={"metadata": {"path": folder}},
            # Else it warns that it is talked to over TCP, on this machine.
            extra_arguments=["--log-level=ERROR"],
        ).execute()
        written = {
            each.relative_to(folder).as_posix(): each.read_bytes()
            for each in sorted(Path(folder, folder_name).glob("*"))
        }
    text, resources = MarkdownExporter().from_notebook_node(
        notebook, {"unique_key": path.stem, "output_files_dir": folder_name}
    )
    return text, written | resources["outputs"]
