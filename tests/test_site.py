"""The documentation's site: built strictly, complete, and without a request to any network, in a real browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NAV = re.findall(r'"([\w/]+\.md)"', (ROOT / "zensical.toml").read_text(encoding="utf-8").partition("\n]\n")[0])


def test_every_page_stands_in_the_navigation_once() -> None:
    pages = {file.name for file in (ROOT / "docs").glob("*.md")}
    pages |= {file.with_suffix(".md").name for file in (ROOT / "docs").glob("*.ipynb")} | {"changelog.md", "names.md"}
    assert sorted(NAV) == sorted(pages)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("zensical")
    folder = tmp_path_factory.mktemp("docs") / "site"
    built = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "assets" / "build.py"), str(folder)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "No issues found" in built.stdout + built.stderr
    return folder


def test_the_site_holds_the_pages_and_every_public_name(site: Path) -> None:
    import bsap

    for page in NAV:
        assert (site / page).with_suffix(".html").exists(), page
    api = "".join(file.read_text(encoding="utf-8") for file in (site / "api").glob("*.html"))
    for name in bsap.__all__:
        if name != "__version__":
            module = bsap._HOME[name]
            assert re.search(rf'id="{re.escape(module)}(\.\w+)*\.{name}"', api), name
    assert ":class:`" not in api


def test_pages_opened_as_files_load_nothing_else_and_can_be_searched(site: Path, browser: Any) -> None:
    browser.get_log("performance")
    browser.get_log("browser")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 1300, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    find = "return [...document.querySelectorAll('*')].find(e => e.shadowRoot)?.shadowRoot.querySelector(arguments[0])"
    for page in ("index.html", "data.html", "own_picture.html", "api/scoring.html"):
        browser.get((site / page).as_uri())
        field = until(lambda: browser.execute_script(find, "input"))
        browser.find_element("css selector", ".md-search__button").click()
        until(field.is_displayed)
        field.send_keys("proposals")
        answer = until(lambda: browser.execute_script(find, "ol a"))
        assert answer.get_attribute("href").startswith(site.as_uri())
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith(("data:", site.as_uri()))} <= {"about:blank"}
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def until(look: Any) -> Any:
    """What ``look`` finds, within half a minute."""
    for _ in range(300):
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError("not found within 30 seconds")
