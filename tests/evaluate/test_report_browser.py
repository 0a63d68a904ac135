"""The report in a real headless Chromium, offline: it opens, draws, filters, and tells on hover."""

import base64
import io
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from hiprobe.evaluate.external import ScoresConfig, run_evaluate_scores
from hiprobe.evaluate.report import render_results
from hiprobe.store import HiProbeError, VideoRecord, write_manifest

pytestmark = pytest.mark.slow
EVIL = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser():
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no Chromium with its driver: apt-get install chromium chromium-driver")
    options = Options()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    # Nothing may come from the network.
    started.execute_cdp_cmd("Network.enable", {})
    started.execute_cdp_cmd("Network.emulateNetworkConditions", {
        "offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0,
    })  # fmt: skip
    yield started
    started.quit()


@pytest.fixture
def make_results(tmp_path):
    """Results of made-up scores, with a thumbnail, a description and a layer analysis."""

    def make(num_videos=6):
        rng = np.random.default_rng(0)
        records, rows = [], []
        for index in range(num_videos):
            ranges = ((48, 120),) * (index % 2)
            label = "anomalous" if ranges else "normal"
            category = ("Fire", "Fall")[index // 2 % 2] if ranges else ""
            record = VideoRecord(f"v{index}", "x.mp4", "test", label, category, ranges, 240, 24.0)
            records.append(record)
            rows += [(f"v{index}", k * 24, k * 24 + 24, rng.random()) for k in range(10)]
        write_manifest(tmp_path / "m.csv", records)
        columns = ["video_id", "start_frame", "stop_frame", "score"]
        pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "s.csv", index=False)
        folder = tmp_path / "results"
        run_evaluate_scores(
            ScoresConfig(tmp_path / "s.csv", tmp_path / "m.csv", folder, num_resamples=20)
        )
        _add_thumbnail(folder)
        _add_description(folder)
        _add_layers(folder / "layers")
        render_results(folder)
        return folder

    return make


def _add_thumbnail(folder):
    file = io.BytesIO()
    Image.new("RGB", (128, 72), "red").save(file, "JPEG")
    jpeg = base64.b64encode(file.getvalue()).decode()
    content = {"v1": [{"frame": 60, "score": 0.9, "jpeg": jpeg}]}
    (folder / "thumbnails.json").write_text(json.dumps(content))


def _add_description(folder):
    video = json.loads((folder / "intervals.json").read_text())["videos"]["v1"]
    line = {"video_id": "v1", "kind": "anomalous", "text": EVIL} | video["anomalous"][0]
    stale = line | {"start_frame": 1, "text": "of an interval that is no more"}
    text = "\n".join(json.dumps(one) for one in ({"provenance": {}}, stale, line))
    (folder / "descriptions.jsonl").write_text(text + '\n{"video_id": "v1", "ki')


def _add_layers(folder):
    folder.mkdir()
    table = pd.DataFrame({"layer": [1, 2], "saliency": [0.1, 0.2], "silhouette": [0.1, 0.3]})
    table.assign(cv_auc=0.8, cv_auc_std=0.1, chosen_share=0.5).to_csv(folder / "layers.csv")
    points = {"layer": 1, "label": ["normal", "anomalous"], "x": [0, 1], "y": [1, 2]}
    pd.DataFrame(points).to_csv(folder / "tsne.csv")
    summary = {"dlsp_layer": 2, "best_cv_layer": 1, "spearman": 0.5, "num_draws": 4}
    summary |= {"cv_auc_at_dlsp_layer": 0.8, "cv_auc_at_best_layer": 0.8, "draw_fraction": 0.5}
    (folder / "summary.json").write_text(json.dumps(summary))


def opened(browser, folder):
    browser.get(f"file://{folder / 'report.html'}")
    WebDriverWait(browser, 20).until(lambda b: b.find_elements(By.CSS_SELECTOR, "#roc .trace"))
    return browser


def shown(browser):
    articles = browser.find_elements(By.TAG_NAME, "article")
    return {
        article.find_element(By.TAG_NAME, "h3").text
        for article in articles
        if article.is_displayed()
    }


def article_of(browser, video_id):
    path = f"//article[.//h3[text()='{video_id}']]"
    article = browser.find_element(By.XPATH, path)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", article)
    WebDriverWait(browser, 10).until(
        lambda _: article.find_elements(By.CSS_SELECTOR, ".curve-plot .trace")
    )
    return article


def test_it_opens_and_draws_without_an_error(browser, make_results):
    opened(browser, make_results())
    for plot in ("roc", "pr", "layer-auc", "layer-silhouette"):
        assert browser.find_elements(By.CSS_SELECTOR, f"#{plot} .trace"), plot
    assert browser.find_elements(By.CSS_SELECTOR, ".tsne .trace")
    article_of(browser, "v1")
    assert browser.get_log("browser") == []


def test_the_filters_filter(browser, make_results):
    opened(browser, make_results())
    assert shown(browser) == {f"v{i}" for i in range(6)}
    Select(browser.find_element(By.ID, "group")).select_by_visible_text("Fire")
    assert shown(browser) == {"v1", "v5"}
    assert browser.find_element(By.ID, "shown").text == "2 of 6 videos"
    browser.find_element(By.ID, "name").send_keys("V5")
    assert shown(browser) == {"v5"}


def test_a_hover_tells_frame_time_and_score(browser, make_results):
    folder = make_results()
    opened(browser, folder)
    article = article_of(browser, "v3")
    plot = article.find_element(By.CSS_SELECTOR, ".nsewdrag")
    # The pointer at a quarter: the third of ten segments.
    ActionChains(browser).move_to_element_with_offset(plot, -plot.size["width"] // 4, 0).perform()
    text = WebDriverWait(browser, 10).until(
        lambda _: [one.text for one in article.find_elements(By.CSS_SELECTOR, ".hovertext")]
    )[0]
    scores = pd.read_csv(folder / "scores.csv").query("video_id == 'v3'")
    row = scores[scores["start_frame"] == 48].iloc[0]
    assert "frames [48, 72)" in text
    assert "2.0–3.0 s" in text
    assert f"smoothed {row['smoothed']:.4f}".rstrip("0") in text


def test_pictures_and_descriptions_stand_at_their_video(browser, make_results):
    opened(browser, make_results())
    article = article_of(browser, "v1")
    (image,) = article.find_elements(By.CSS_SELECTOR, ".thumbs img")
    assert browser.execute_script("return arguments[0].naturalWidth", image) == 128
    assert "frame 60 · 2.5 s · 0.900" in article.text
    assert EVIL in article.text  # as text
    assert "no more" not in article.text
    assert len(browser.find_elements(By.CSS_SELECTOR, ".said li")) == 1


def test_a_phone_shows_it_without_sideways_scrolling(browser, make_results):
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        opened(browser, make_results())
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_of_800_videos_only_those_in_sight_are_drawn(browser, make_results):
    opened(browser, make_results(800))
    article_of(browser, "v400")
    drawn = browser.find_elements(By.CSS_SELECTOR, "article[data-drawn]")
    assert 0 < len(drawn) < 30
    assert browser.get_log("browser") == []


HOSTILE = {
    EVIL: "quotes \" ' < > & `${alert(1)}` {{ 7 * 7 }} {% raw %}",
    "</style></title></textarea><svg onload=alert(1)>": "-->]]><script>alert(1)</script>",
    "\u202egpj.exe\u202c \u200f\u2066rtl\u2069": "\u0001\u001b[31m\u007f\u0085\u2028\u2029",
    "long " + 1000 * "0123456789": 1000 * "0123456789",
    "video\n\ttwo, lines": "__proto__",
    "%{x} <b>bold</b> <a href='javascript:alert(1)'>x</a>": "constructor",
}


def test_hostile_names_are_text_and_nothing_else(browser, tmp_path):
    """Names of videos, categories and texts of descriptions: nothing runs, and all is shown."""
    records = [
        VideoRecord(name, "x.mp4", "test", "anomalous", category, ((48, 120),), 240, 24.0)
        for name, category in HOSTILE.items()
    ]
    write_manifest(tmp_path / "m.csv", records)
    rows = [(name, k * 24, k * 24 + 24, k / 10) for name in HOSTILE for k in range(10)]
    columns = ["video_id", "start_frame", "stop_frame", "score"]
    pd.DataFrame(rows, columns=columns).to_csv(
        tmp_path / "<img src=x onerror=alert(1)>.csv", index=False
    )
    folder = tmp_path / "results"
    run_evaluate_scores(
        ScoresConfig(
            tmp_path / "<img src=x onerror=alert(1)>.csv",
            tmp_path / "m.csv",
            folder,
            num_resamples=0,
        )
    )
    videos = json.loads((folder / "intervals.json").read_text())["videos"]
    lines = [{"provenance": {}}] + [
        {"video_id": name, "kind": "anomalous", "text": category} | videos[name]["anomalous"][0]
        for name, category in HOSTILE.items()
    ]
    (folder / "descriptions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    render_results(folder)
    opened(browser, folder)
    headings = browser.find_elements(By.CSS_SELECTOR, "article h3")
    # As the page has it: the browser makes one space of several.
    seen = {one.get_property("textContent") for one in headings}
    assert seen == {name.replace("\r", "") for name in HOSTILE}
    options = browser.find_elements(By.CSS_SELECTOR, "#group option")
    assert len(options) == len(HOSTILE) + 1
    for heading in headings:
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", heading)
    assert not browser.find_elements(By.CSS_SELECTOR, "article script, article svg[onload], h3 *")
    assert not browser.find_elements(
        By.CSS_SELECTOR, "article h3 img, .said img, .said a, .said b b"
    )
    assert browser.get_log("browser") == []  # no alert, no refused script, no error
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 1200


def test_a_report_of_figures_that_are_not_defined_still_opens(browser, make_results):
    folder = make_results()
    summary = json.loads((folder / "layers/summary.json").read_text()) | {"spearman": float("nan")}
    (folder / "layers/summary.json").write_text(json.dumps(summary))
    render_results(folder)
    opened(browser, folder)
    assert browser.get_log("browser") == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("metrics.json", '"warnings"', '"warning"'),
        ("metrics.json", '"raw": {', '"raw": "x", "other": {'),
        ("metrics.json", '"num_frames": 1440', '"num_frames": "many"'),
        ("layers/summary.json", '"spearman": 0.5', '"spearman": "</script>"'),
        ("layers/layers.csv", "saliency", "saliencies"),
        ("layers/tsne.csv", ",x,y", ",x,z"),
    ],
)
def test_what_was_tampered_with_makes_no_report(make_results, name, old, new):
    folder = make_results()
    before = (folder / "report.html").read_bytes()
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    with pytest.raises(HiProbeError, match=r"not whole (results|tables)"):
        render_results(folder)
    assert (folder / "report.html").read_bytes() == before
