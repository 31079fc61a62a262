"""Every command that the documentation shows is run here, or parses and stands on a page that says what it needs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from bsap.cli import main
from bsap.cli.commands import COMMANDS
from bsap.cli.docs import pages

ROOT = Path(__file__).parents[1]
RUN = ("index.md", "reports.md", "method.md")
"""Pages whose commands are run below, as they stand, in a folder that `bsap demo` has filled."""

NEEDS = "> The commands on this page need real data or real weights."
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])


def commands(page: Path) -> list[list[str]]:
    """The `bsap` commands in code blocks of a page, as words without `bsap`; lines that end with a backslash go on."""
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    lines = re.findall(r"^(?: {4}|\$ )?bsap ([a-z].*)$", "\n".join(code(text)), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def code(text: str) -> list[str]:
    return [*re.findall(r"^```(?:bash|sh|shell|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE),
            *re.findall(r"^ {4}bsap .*$", text, re.MULTILINE)]  # fmt: skip


@pytest.fixture(scope="module")
def options() -> dict[str, str]:
    """Help texts by command, filled as they are asked for."""
    return {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist_with_the_options_shown(
    page: Path, options: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for words in [["test"], *commands(page)]:
        name = " ".join(words[:2] if words[0] == "data" else words[:1])
        assert words[0] in COMMANDS, words
        if name not in options:
            with pytest.raises(SystemExit):
                main([*name.split(), "--help"])
            options[name] = capsys.readouterr().out
        known = options[name] + options["test"] * (name == "fit")  # `fit` leaves the data's out
        for word in words:
            if word.startswith("--") and not word.startswith("--trainer."):
                assert re.search(rf"{re.escape(word.partition('=')[0])}\b", known), (words, word)


def test_pages_say_what_their_commands_need() -> None:
    for page in PAGES:
        if commands(page) and page.name not in (*RUN, "README.md"):
            assert NEEDS in page.read_text(encoding="utf-8"), page.name


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `bsap demo` leaves, of a few expressions."""
    folder = tmp_path_factory.mktemp("demo")
    assert main(["demo", "--limit", "10", "--output", str(folder / "runs" / "demo")]) == 0
    for run in (folder / "runs" / "demo").glob("*-10"):
        run.rename(run.with_name(run.name.removesuffix("-10")))
    return folder


def test_the_commands_of_the_first_pages_run(
    demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(demo)
    Image.new("RGB", (240, 180), "green").save("street.jpg")
    for page in RUN:
        for words in commands(ROOT / "docs" / page):
            if words != ["demo"]:  # the fixture ran it
                assert main(words) == 0, words
    written = capsys.readouterr().out
    assert "bit for bit" in written
    for file in (
        "answer.png",
        "report.html",
        "answers.csv",
        "pictures",
        "views/2891.png",
        "runs/demo/detections-generic/sweep/best.yaml",
    ):
        assert Path(file).exists(), file


def test_pages_can_be_read_where_the_package_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs"]) == 0
    listed = capsys.readouterr().out
    for page in (ROOT / "docs").glob("*.md"):
        assert page.stem in listed
    assert main(["docs", "data"]) == 0
    assert capsys.readouterr().out == (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert main(["docs", "dta"]) == 2
    assert "'data'" in capsys.readouterr().err


def test_messages_and_help_name_pages_that_exist() -> None:
    named = set()
    for folder in ("bsap", "datamodules", "metrics", "configs"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".yaml", ".txt", ".sh", ".json"):
                text = file.read_text(encoding="utf-8")
                named |= set(re.findall(r"bsap docs ([a-z_]+)", text))
                assert not re.findall(r"docs/\w+\.md", text.replace("docs/architecture.md", "")), file
    assert {"data", "extending"} <= named <= set(pages())


def test_the_readme_leads_to_the_documentations_one_address() -> None:
    (address,) = re.findall(r'^Documentation = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not re.findall(r"\]\(docs/\w+\.md", readme)  # the package index shows the README without the folder
    linked = re.findall(r"\]\((https://bsap\.[^)#]+)[^)]*\)", readme)
    assert len(linked) > 5
    for link in linked:
        assert link.startswith(address)
        name = link.removeprefix(address).removesuffix(".html")
        assert name in {"", "own_picture", *pages()}, link
