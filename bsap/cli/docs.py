"""``bsap docs [PAGE]``: the documentation's pages, which are installed with the package."""

from __future__ import annotations

import json
import sys
from importlib.metadata import metadata
from importlib.resources import files
from pathlib import Path

from bsap.cli.arguments import Arguments
from bsap.errors import unknown


def pages() -> dict[str, Path]:
    """The installed pages by name. They lie beside ``configs``, both in a clone and in an installed package."""
    folder = Path(str(files("bsap.configs"))).parent / "docs"
    return {file.stem: file for file in sorted(folder.iterdir()) if file.suffix in (".md", ".ipynb")}


def page_text(file: Path) -> str:
    """A page as Markdown; of a notebook its text and its code."""
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".ipynb":
        return text
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(f"```python\n{source}\n```" if kind == "code" else source for kind, source in cells) + "\n"


def address() -> str:
    """Where the documentation stands online: pyproject.toml's ``[project.urls]`` is the one place that says it."""
    urls = dict(line.split(", ", 1) for line in metadata("bsap").get_all("Project-URL") or [])
    return str(urls.get("Documentation", ""))


def run(argv: list[str]) -> int:
    """Print the list of pages, or a page."""
    parser = Arguments("bsap docs", "Read the documentation, without a network.")
    parser.add("[PAGE]", "the page to print; by default the list of pages")
    page, found = parser.parse_args(argv[1:]).page, pages()
    if page is None:
        for name, file in found.items():
            title = page_text(file).partition("\n")[0].lstrip("# ")
            print(f"{name:<{max(map(len, found))}}  {title}")
        print("\n`bsap docs PAGE` prints a page." + (f" With pictures and search: {address()}" if address() else ""))
        return 0
    if page not in found:
        raise unknown("page", page, found)
    text = page_text(found[page])
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        print(text, end="")
    return 0
