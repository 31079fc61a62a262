"""`bsap report`: the page in a real browser, on a run over the planted world whose boxes are known by hand."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pycocotools import mask as coco_mask

from bsap.analysis.comparison import Side
from bsap.cli import main
from bsap.reports.curves import calibration, calibration_error, coverage
from bsap.reports.page_tables import breakdowns
from bsap.reports.report import write_report
from bsap.runs.records import read_predictions
from bsap.runs.saved import read_run
from support.results import change_results

HOSTILE = "<script>document.title='changed'</script><img src=https://example.org/x.png onerror=alert(1)> </script>"


@pytest.fixture(scope="module")
def run(planted: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with stored features, one of whose expressions is hostile."""
    root = tmp_path_factory.mktemp("reported")
    shutil.copytree(planted.root, root / "data")
    config = planted.config(
        run={"root": str(root), "name": "run", "all_scores": True},
        model={"store": "auto"},
        data={
            "root": str(root / "data"),
            "proposals": {"source": "detections", "path": str(root / "data" / "proposals.json")},
        },
    )
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", "-c", str(root / "config.yaml")]) == 0
    change_text(root / "run", 3, HOSTILE)
    return root / "run"


def change_text(folder: Path, line: int, text: str) -> None:
    """Give one record another text, as if the annotations had it."""
    path = folder / "predictions.jsonl"
    records = [json.loads(row) for row in path.read_text().splitlines()]
    records[line]["text"] = text
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    change_results(folder)


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    """The page of the run."""
    path = run.parent / "report.html"
    assert main(["report", str(run), "--output", str(path)]) == 0
    return path


@pytest.fixture
def opened(browser: Any, page: Path) -> Any:
    """The page, freshly opened in a window 1,000 pixels wide."""
    resize(browser, 1000)
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get("about:blank")
    browser.get(page.as_uri())
    return browser


def resize(browser: Any, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def texts(browser: Any, selector: str) -> list[str]:
    return [found.text for found in browser.find_elements("css selector", selector)]


def fill(browser: Any, name: str, value: str) -> None:
    """Set a filter as a user would."""
    browser.execute_script(
        "const f = document.getElementById(arguments[0]); f.value = arguments[1];"
        "f.dispatchEvent(new Event('input', {bubbles: true}));",
        name,
        value,
    )


def test_no_error_and_no_request_leaves_the_page(opened: Any, page: Path) -> None:
    assert [entry for entry in opened.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    urls = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith("data:")} <= {page.as_uri(), "about:blank"}
    assert page.as_uri() in urls


def test_hostile_text_is_shown_as_text(opened: Any) -> None:
    assert opened.title == "bsap report: run"
    assert HOSTILE.split("> ")[0] in " ".join(texts(opened, "article h3"))
    assert not opened.find_elements("css selector", "article script, article h3 img")


def test_filters_change_the_gallery(opened: Any) -> None:
    assert texts(opened, "#count") == ["8 of 8 expressions"]
    assert len(texts(opened, "article")) == 8
    fill(opened, "search", "GREEN")
    assert texts(opened, "article h3") == ["green"]
    fill(opened, "search", "")
    fill(opened, "scorer", "clip")
    fill(opened, "outcome", "wrong")
    assert texts(opened, "#count") == ["3 of 8 expressions"], "as in the tests of `bsap show`"
    fill(opened, "scorer", "bsap")
    assert texts(opened, "#count") == ["2 of 8 expressions"]
    fill(opened, "outcome", "")
    fill(opened, "words", "3")
    assert texts(opened, "#count") == ["2 of 8 expressions"]
    fill(opened, "words", "0")
    fill(opened, "reason", "scorers differ")
    assert texts(opened, "#count") == ["1 of 8 expressions"]


def test_boxes_and_masks_lie_on_the_right_pixels(opened: Any) -> None:
    """`green` means (20, 0, 40, 10) of a picture of 60 x 40; all scorers chose (20, 0, 40, 20). Masks fill boxes."""
    fill(opened, "search", "green")
    places = opened.execute_script(
        """
        const image = document.querySelector("article img").getBoundingClientRect();
        return [...document.querySelectorAll("article :is(rect, path.mask)")].map((shape) => {
          const box = shape.getBoundingClientRect();
          const [x, y] = [60 / image.width, 40 / image.height];
          const name = shape.dataset.region || shape.querySelector("title").textContent;
          return [name, [(box.left - image.left) * x, (box.top - image.top) * y, box.width * x, box.height * y]];
        });
        """
    )
    found = {title.partition(",")[0]: place for title, place in places}
    assert found["referent"] == found["mask of the referent"] == pytest.approx([20, 0, 20, 10], abs=0.6)
    for name in ("clip: region 1", "bsap: region 1", "1", "mask of clip"):
        assert found[name] == pytest.approx([20, 0, 20, 20], abs=0.6)
    assert found["0"] == pytest.approx([0, 0, 20, 20], abs=0.6)
    assert opened.execute_script("return document.querySelector('article img').naturalWidth") == 60
    opened.execute_script("document.getElementById('masks').click()")
    assert not any(mask.is_displayed() for mask in opened.find_elements("css selector", "path.mask"))


def test_the_page_reads_masks_as_pycocotools_does(opened: Any) -> None:
    """Every pixel of irregular masks, some of them larger than a character of the encoding can say."""
    rng = np.random.default_rng(0)
    masks = [rng.random(shape) < share for shape in ((7, 5), (40, 60)) for share in (0.02, 0.5, 0.98)]
    masks.append(np.ones((300, 400), bool))
    masks.append(np.add.outer(np.arange(300) - 150, np.zeros(400)) ** 2 + (np.arange(400) - 200.0) ** 2 < 120**2)
    for dense in masks:
        text = coco_mask.encode(np.asfortranarray(dense, np.uint8))["counts"].decode()
        filled = np.zeros_like(dense)
        path = opened.execute_script("return pixels(arguments[0], arguments[1])", text, len(dense))
        for x, y, tall in re.findall(r"M(\d+) (\d+)v(\d+)h1v-\3z", path):
            assert not filled[int(y) : int(y) + int(tall), int(x)].any()
            filled[int(y) : int(y) + int(tall), int(x)] = True
        np.testing.assert_array_equal(filled, dense)


def test_pointing_at_a_region_shows_all_scores(opened: Any, run: Path) -> None:
    records = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    (choices,) = [record["scorers"] for record in records if record["text"] == "green"]
    fill(opened, "search", "green")
    region = opened.find_element("css selector", "article rect[data-region='2']")
    webdriver = pytest.importorskip("selenium.webdriver")
    webdriver.ActionChains(opened).move_to_element(region).perform()
    (text,) = texts(opened, "article .pointed")
    assert text.startswith("region 2: clip ")
    shown = [float(part.split()[1]) for part in text.removeprefix("region 2: ").split(", ")]
    assert shown == pytest.approx([choice["scores"][2] for choice in choices.values()], rel=5e-3)
    opened.find_element("css selector", "article summary").click()
    rows = texts(opened, "article .regions tbody tr")
    assert len(rows) == 3
    assert [row.count("\N{CHECK MARK}") for row in rows] == [0, 3, 0], "all scorers chose region 1"
    assert "the scores of chosen regions only" not in opened.page_source.lower()


def test_it_prints_all_dark_on_white(opened: Any) -> None:
    """Also where the screen is dark: nothing is cut off at the right of a page, 277 mm wide, nothing stays folded."""
    try:
        opened.execute_cdp_cmd("Page.printToPDF", {})
        assert opened.execute_script("return [...document.querySelectorAll('details')].every((d) => d.open)")
        dark = {"name": "prefers-color-scheme", "value": "dark"}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": [dark]})
        resize(opened, 1047)
        cut = """
            const wide = [...document.querySelectorAll("main *")].filter((e) => e.getBoundingClientRect().right > 1047);
            const folded = [...document.querySelectorAll(".scroll, pre")].filter((e) =>
              e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1);
            return [...wide, ...folded].map((e) => e.outerHTML.slice(0, 200));
        """
        assert opened.execute_script(cut) == []
        hidden = """
            return [...document.querySelectorAll("main *")].filter((e) => e.textContent.trim() && !e.closest("svg")
              && !e.getClientRects().length && !e.closest("form, noscript, .pointed")).map((e) => e.outerHTML);
        """
        assert opened.execute_script(hidden) == []
        ground, ink = opened.execute_script(
            "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        )
        assert (ground, ink) == ("rgb(255, 255, 255)", "rgb(26, 26, 26)")
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_it_fits_a_phone(opened: Any) -> None:
    resize(opened, 400)
    assert opened.execute_script("return document.scrollingElement.scrollWidth") <= 400


def test_text_has_contrast_in_the_light_and_in_the_dark(opened: Any) -> None:
    """WCAG AA: 4.5 to 1 for every pair of text and background colours of the page."""
    script = """
        const style = getComputedStyle(document.documentElement);
        const names = ["ink", "faint", "link", "right", "wrong", "paper", "panel"];
        return names.map((name) => style.getPropertyValue("--" + name).trim());
    """
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        *inks, paper, panel = [luminance(colour) for colour in opened.execute_script(script)]
        for ground in (paper, panel):
            assert all((max(i, ground) + 0.05) / (min(i, ground) + 0.05) >= 4.5 for i in inks), scheme
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def luminance(colour: str) -> float:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_it_can_be_used_without_eyes_and_mouse(opened: Any) -> None:
    assert all(
        image.get_attribute("alt").startswith("Picture COCO_train2014")
        for image in opened.find_elements("css selector", "article img")
    )
    assert opened.find_element("css selector", "html").get_attribute("lang") == "en"
    reachable = opened.execute_script(
        "return [...document.querySelectorAll('a, input, select, summary, [tabindex]')].every((e) => e.tabIndex >= 0)"
    )
    assert reachable
    unnamed = "return [...document.querySelectorAll('input, select')].filter((e) => !e.labels.length).length"
    assert opened.execute_script(unnamed) == 0


def test_every_expression_has_a_link(browser: Any, page: Path) -> None:
    browser.get("about:blank")
    browser.get(f"{page.as_uri()}#refcoco%2Func%2Fval%2F2")
    (target,) = browser.find_elements("css selector", "article:target")
    assert target.find_element("css selector", "h3").text == "green"


# --- without a browser ------------------------------------------------------------------------------------------------


@pytest.fixture
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the plots, most of a page's seconds, where a test is not about them."""
    monkeypatch.setattr("bsap.reports.report.figures", lambda scorers: [])
    monkeypatch.setattr("bsap.reports.report.bar_plot", lambda bars, *, x: "")


@pytest.mark.usefixtures("without_plots")
def test_several_runs_stand_side_by_side(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "other")
    page = write_report([run, tmp_path / "other"])
    assert '"scorers": ["run: clip", "run: bsap", "run: bsap_h", "other: clip"' in page
    assert "No bias measures for other" in page, "its store is not beside it"
    assert page.count("No prompts for other") == 1
    assert "No prompts for run" not in page


@pytest.mark.usefixtures("without_plots")
def test_the_groups_are_those_of_compare(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert (
        main(["compare", f"{run}:clip", f"{run}:bsap", "--by", "words", "--metrics", "rec/acc@0.5", "--format", "json"])
        == 0
    )
    expected = [
        [row["group"].removeprefix("words "), str(row["gain"]["expressions"]), f"{100 * row['gain']['a']:.1f}"]
        for row in json.loads(capsys.readouterr().out)["comparisons"]
        if row["group"] != "all"
    ]
    page = write_report([run], by=["words"])
    section = page[page.index('<section id="groups">') : page.index('<section id="curves">')]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", section)]
    assert [row[:3] for row in cells if row] == expected
    assert section.count("<table>") == 1
    unknown = read_predictions(run / "predictions.jsonl")
    for record in unknown:
        record["category"] = None
    sides = {name: Side(read_run(run), name, unknown) for name in ("clip", "bsap")}
    assert breakdowns("run", sides, ["category"]) == [], "nothing is known of it"
    assert '<section id="groups">' not in write_report([run], by=[])


@pytest.mark.usefixtures("without_plots")
def test_the_prompts_are_those_of_explain(run: Path, tmp_path: Path) -> None:
    """The bank is `white`, which explains one choice of eight away: CLIP's white region, where BSAP is right."""
    page = write_report([run])
    section = page[page.index('<section id="prompts">') : page.index('<section id="gallery">')]
    assert "run: bank white, by bsap" in section
    (row,) = re.findall(r"<tr>(<td.*?)</tr>", section)
    assert re.findall(r"<td[^>]*>(.*?)</td>", row)[0] == "white"
    assert re.findall(r"<td[^>]*>(.*?)</td>", row)[2:] == ["12.50", "12.50", "0.00"]


@pytest.mark.usefixtures("without_plots")
def test_a_run_that_recorded_less(planted: Any, tmp_path: Path, browser: Any) -> None:
    """Neither features, masks nor all scores, and one scorer, which cannot differ from another."""
    config = planted.config(run={"root": str(tmp_path), "name": "run"}, model={"scorers": ["clip"], "tasks": ["rec"]})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", "-c", str(tmp_path / "config.yaml")]) == 0
    page = write_report([tmp_path / "run"])
    assert "a run with <code>--run.all_scores true</code> records all" in page
    assert "kept no features: run it again with `--model.store auto --run.overwrite true`" in page
    assert "No two scorers of the run choose differently" in page
    assert '<section id="groups">' not in page
    (tmp_path / "page.html").write_text(page)
    browser.get((tmp_path / "page.html").as_uri())
    assert not browser.find_element("id", "masks").is_displayed()
    fill(browser, "search", "the red one")
    widths = [
        float(frame.get_attribute("stroke-width"))
        for frame in browser.find_elements("css selector", "article rect:not(.region)")
    ]
    assert widths[0] > widths[1] + 2, "the referent's frame shows around that of a choice of the same box"


@pytest.mark.usefixtures("without_plots")
def test_answers_that_are_sets(planted: Any, tmp_path: Path, browser: Any) -> None:
    """An answer of two regions has two frames; one of none has none, and is right where nothing is meant."""
    config = planted.config(
        run={"root": str(tmp_path), "name": "run"},
        model={"scorers": ["clip"], "answer": {"rule": "threshold", "value": -0.5, "over": "cosine", "nms": None}},
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", "-c", str(tmp_path / "config.yaml")]) == 0
    (tmp_path / "page.html").write_text(write_report([tmp_path / "run"]))
    browser.get((tmp_path / "page.html").as_uri())
    fill(browser, "search", "green")
    (choice,) = texts(browser, "article .choices li")
    assert choice.startswith("clip: regions 1, 0, 2, wrong"), "the cosines of red and blue with green are -1/3"
    frames = browser.find_elements("css selector", "article rect:not(.region):not([stroke-dasharray])")
    assert len(frames) == len(browser.find_elements("css selector", "article path.mask")) - 1 == 3
    fill(browser, "search", "pink")
    assert texts(browser, "article .choices li") == ["clip: no region, wrong"], "a picture without proposals"


@pytest.mark.usefixtures("without_plots")
def test_missing_data_keep_the_text(run: Path, tmp_path: Path) -> None:
    world = Path(shutil.copytree(run.parent, tmp_path / "world"))
    results = world / "run" / "results.json"
    results.write_text(results.read_text().replace(str(run.parent), str(world)))
    (world / "data" / "images" / "train2014" / "COCO_train2014_000000000002.png").unlink()
    page = write_report([world / "run"])
    assert "Pictures are missing." in page
    assert page.count("data:image/jpeg") == 0 or '"data": null' in page
    shutil.rmtree(world / "data")
    assert "green" in write_report([world / "run"])


@pytest.mark.usefixtures("without_plots")
def test_a_page_larger_than_asked_leaves_pictures_out(run: Path) -> None:
    whole, small = write_report([run]), write_report([run], megabytes=0.0015)
    assert "pictures are left out, because the page would be larger than asked" in small
    assert 0 < small.count("data:image/jpeg") < whole.count("data:image/jpeg")
    assert write_report([run], pictures=0).count("data:image/jpeg") == 0


def test_an_unfinished_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    assert main(["report", str(tmp_path / "run"), "--output", str(tmp_path / "r.html")]) == 2
    assert "the run is not finished" in capsys.readouterr().err


def test_coverage_and_calibration_by_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(200)
    right = rng.random(200) < scores
    for share, accuracy in coverage(scores, right):
        best = sorted(range(200), key=lambda n: -scores[n])[: round(share * 200)]
        assert accuracy == pytest.approx(sum(right[n] for n in best) / len(best))
    groups: dict[int, list[int]] = {}
    for n, score in enumerate(scores):
        groups.setdefault(min(int(score * 10), 9), []).append(n)
    expected = sum(
        abs(sum(scores[n] for n in group) / len(group) - sum(right[n] for n in group) / len(group)) * len(group) / 200
        for group in groups.values()
    )
    assert calibration_error(scores, right) == pytest.approx(expected)
    assert [x for x, _ in calibration(scores, right)] == sorted(x for x, _ in calibration(scores, right))
