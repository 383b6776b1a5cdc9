"""The API reference: a page for each package, of all its modules, from their docstrings."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PACKAGES = ("envs", "reward", "agents", "adversary", "conf")


def packages() -> dict[str, list[str]]:
    """Package -> its modules, both by their import paths; those above come before those below."""
    found = {}
    for top in PACKAGES:
        for path in sorted((ROOT / top).rglob("__init__.py"), key=lambda path: path.parent.parts):
            modules = sorted(each.stem for each in path.parent.glob("*.py") if each != path)
            name = ".".join(path.parent.relative_to(ROOT).parts)
            found[name] = [f"{name}.{module}" for module in modules]
    return found


def page(package: str, modules: list[str]) -> str:
    """The Markdown that mkdocstrings fills."""
    about = f"# {package}\n\n::: {package}\n    options: {{show_root_heading: false, members: false}}\n"
    return about + "".join(f"\n::: {module}\n" for module in modules)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages to the navigation."""
    assert config.nav is not None
    config.nav.append({"API": [{package: f"api/{package}.md"} for package in packages()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for package, modules in packages().items():
        files.append(File.generated(config, f"api/{package}.md", content=page(package, modules)))
    return files
