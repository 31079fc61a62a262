"""``make docs``: build the site, strictly, from the pages, the docstrings, the notebook and the changelog.

``python docs/assets/build.py [FOLDER]`` writes it to FOLDER, by default ``site``.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bsap.cli.docs import page_text

ROOT = Path(__file__).parents[2]
MAPPED = ("datamodules", "metrics", "configs")
SHIM = "https://unpkg.com/iframe-worker/shim"
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")
EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`~?([^`]+)`")


def lay_out_package(package: Path) -> None:
    """The package as it is installed, where griffe can read it, with its two habits in griffe's words.

    Sphinx's roles become plain code, and ``Example:``, the word of torchmetrics, the name of griffe's section.
    """
    ignored = shutil.ignore_patterns("__pycache__", "model")
    shutil.copytree(ROOT / "bsap", package, ignore=ignored)
    for folder in MAPPED:
        shutil.copytree(ROOT / folder, package / folder, ignore=ignored)
    for file in package.rglob("*.py"):
        text = EXAMPLE.sub(r"\1Examples:", file.read_text(encoding="utf-8"))
        file.write_text(ROLE.sub(r"`\1`", text), encoding="utf-8")


def lay_out_pages(pages: Path) -> None:
    """All pages in one folder. Links to files of the repository become plain code: the site does not hold them."""
    shutil.copytree(ROOT / "docs", pages, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    shutil.copy(ROOT / "CHANGELOG.md", pages / "changelog.md")
    for page in pages.glob("*.md"):
        text = OUTSIDE.sub(r"\1", page.read_text(encoding="utf-8"))
        page.write_text(text.replace(".ipynb)", ".md)"), encoding="utf-8")
    for notebook in pages.glob("*.ipynb"):
        text = f"{page_text(notebook)}\n[This page as a notebook]({notebook.name})\n"
        notebook.with_suffix(".md").write_text(text, encoding="utf-8")


def lay_out_names(pages: Path) -> None:
    """A page with every scorer, view and bank, as `bsap list` knows them."""
    text = [
        "# Scorers, views and banks",
        "",
        "The tables of `bsap list`. Notation is that of [the method](method.md).",
        "",
    ]
    for kind in ("scorers", "views", "banks"):
        listed = subprocess.run(
            [sys.executable, "-m", "bsap", "list", kind, "--format", "json"], check=True, capture_output=True, text=True
        )
        rows = json.loads(listed.stdout)
        text += [f"## {kind.capitalize()}", "", f"    bsap list {kind}", "", "| " + " | ".join(rows[0]) + " |"]
        text += ["|" + " --- |" * len(rows[0])]
        text += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row.values()) + " |" for row in rows] + [
            ""
        ]
    (pages / "names.md").write_text("\n".join(text), encoding="utf-8")


def lay_out_api(pages: Path, package: Path) -> list[str]:
    """One page for each room, and one for the names of ``bsap`` itself."""
    (pages / "api").mkdir()
    home = re.findall(r'^    "(\w+)": "([\w.]+)"', (ROOT / "bsap" / "__init__.py").read_text("utf-8"), re.MULTILINE)
    lines = ["# The API", "", "These names can be imported from `bsap`; all others stand in the rooms beside.", ""]
    lines += [f"- `bsap.{name}`, of `{module}`" for name, module in home]
    (pages / "api" / "index.md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    rooms: dict[str, list[str]] = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        if parts[0] != "cli" and not any(part.startswith("_") for part in parts):
            rooms.setdefault(parts[0], []).append(".".join(parts))
    for room, modules in rooms.items():
        # A package's own page has its text only: the names that it lists are in the modules.
        head = f"::: bsap.{room}\n    options:\n      members: false\n" if (package / room).is_dir() else ""
        text = "\n".join([f"# `bsap.{room}`\n", head, *(f"::: bsap.{module}\n" for module in modules)])
        (pages / "api" / f"{room}.md").write_text(text, encoding="utf-8")
    return ["api/index.md", *(f"api/{room}.md" for room in sorted(rooms))]


def keep_local(site: Path) -> None:
    """Of what pages load, one script lies on the network: the one that lets the search run from a file. Take ours."""
    for page in site.rglob("*.html"):
        ours = "../" * (len(page.relative_to(site).parts) - 1) + "assets/worker.js"
        page.write_text(page.read_text(encoding="utf-8").replace(SHIM, ours), encoding="utf-8")


def main(folder: Path) -> int:
    """Build; any warning of the generator is an error."""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        pages, package = work / "docs", work / "package" / "bsap"
        lay_out_package(package)
        lay_out_pages(pages)
        lay_out_names(pages)
        text = (ROOT / "zensical.toml").read_text(encoding="utf-8")
        api = json.dumps(lay_out_api(pages, package))
        (work / "zensical.toml").write_text(text.replace('"API" = []', f'"API" = {api}'), encoding="utf-8")
        build = [sys.executable, "-m", "zensical", "build", "--strict"]
        if status := subprocess.run(build, cwd=work).returncode:
            return status
        keep_local(work / "site")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.move(work / "site", folder)
    print(f"Written to {folder / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site").resolve()))
