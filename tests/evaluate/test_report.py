import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from hiprobe.evaluate.report_content import ReportContent, ReportVideo
from hiprobe.evaluate.report_page import render_page

EVIL = "</script><script>alert(1)</script><b title='x'>&"


def make_video(video_id="video", smoothed=(0.1, 0.8, 0.4), annotations=((24, 48),), **changes):
    scores = np.array(smoothed)
    starts = np.arange(len(scores)) * 24
    values = {
        "video_id": video_id,
        "label": "anomalous" if annotations else "normal",
        "category": "Fire" if annotations else "",
        "fps": 25.0,
        "num_frames": 24 * len(scores),
        "start_frames": starts,
        "stop_frames": starts + 24,
        "scores": scores,
        "smoothed": scores,
        "intervals": ((24, 48),),
        "annotations": annotations,
    }
    return ReportVideo(**values | changes)


def make_metrics():
    areas = {"auc": 0.8731, "auc_ci": [0.81, 0.92], "ap": 0.6, "ap_ci": [0.5, 0.7]}
    areas |= {"pr_auc_trapezoid": 0.61, "pr_auc_trapezoid_ci": [0.51, 0.71]}
    pair = {"auc": 0.7, "ap": 0.3}
    return {
        **dict.fromkeys(("raw", "smoothed", "localized", "binary"), areas),
        "controls": dict.fromkeys(("video_oracle", "video_means", "centre_prior"), pair),
        "pairs": {
            "within_video_auc": 0.7,
            "cross_video_auc": 0.9,
            "within_video_share": 0.004,
            "macro_video_auc": 0.71,
        },
        "anomalous_videos_only": pair,
        "per_category": {"Fire": pair | {"num_videos": 1}},
        "false_alarm_rate": 0.05,
        "f1": 0.5,
        "equal_error_rate": 0.2,
        "threshold": 0.42,
        "num_frames": 144,
        "num_anomalous_frames": 24,
        "num_videos": 2,
    }


def make_content(**changes):
    layers = {
        "kl_divergence": [0.0, 1.0, 3.0, None],
        "ldr": [0.0, 0.1, 0.3, None],
        "entropy": [0.0, 4.0, 4.0, None],
        "saliency": [None, -2.0, 2.0, None],
    }
    values = {
        "title": "made-up, layer 2",
        "metrics": make_metrics(),
        "layers": layers,
        "chosen_layers": (2,),
        "threshold": 0.42,
        "roc": (np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.8, 1.0])),
        "pr": (np.array([0.0, 1.0]), np.array([1.0, 0.2])),
        "videos": [make_video(), make_video("calm", annotations=())],
        "provenance": {"store": {"model": {"id": "made-up"}, "keyframes": 8}, "manifest": None},
        "warnings": [],
    }
    return ReportContent(**values | changes)


def render(tmp_path, content) -> str:
    """Give back the page without plotly's own source."""
    (tmp_path / "report.html").write_text(render_page(content), encoding="utf-8")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count(get_plotlyjs()) == 1
    return page.replace(get_plotlyjs(), "")


def page_data(page) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_everything_is_escaped(tmp_path):
    evil = make_video(EVIL, category=EVIL, label=EVIL)
    content = make_content(
        title=EVIL,
        videos=[evil],
        warnings=[EVIL],
        provenance={EVIL: {"prompt": EVIL}},
        metrics=make_metrics() | {"per_category": {EVIL: {"auc": 0.5, "ap": 0.5}}},
    )
    page = render(tmp_path, content)
    assert "<script>alert" not in page
    assert "<b title" not in page
    assert html.escape(EVIL, quote=False)[:30] in page
    tags = [tag for tag, _ in Elements(page).found]
    assert tags.count("script") == 3
    assert "b" not in tags
    assert "</script" not in get_plotlyjs()


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    page = render(tmp_path, make_content())
    elements = Elements(page).found
    assert not [
        (tag, attributes)
        for tag, attributes in elements
        if tag in {"link", "img", "iframe", "object", "base"} or {"src", "href"} & set(attributes)
    ]
    assert not re.search(r"https?://|@import|url\(", page)
    policy = dict(elements)["meta"]["content"]
    assert policy.startswith("default-src 'none'")


def test_undefined_metrics_show_as_dashes(tmp_path):
    def emptied(content):
        return {
            key: emptied(value) if isinstance(value, dict) else None
            for key, value in content.items()
        }

    page = render(tmp_path, make_content(metrics=emptied(make_metrics())))
    assert page.count('<span class="none" title="undefined') > 20
    assert "None" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert page_data(page)["prevalence"] is None
    nan = float("nan")
    areas = {"auc": nan, "auc_ci": [nan, nan], "ap": 0.5, "ap_ci": [None, None]}
    metrics = make_metrics() | {"f1": nan, "smoothed": areas, "pairs": None, "per_category": None}
    assert not re.search(r"\bnan\b", render(tmp_path, make_content(metrics=metrics)))
    render(tmp_path, make_content(metrics={}))


def test_figures_and_intervals_are_on_the_page(tmp_path):
    page = render(tmp_path, make_content(warnings=["v9 is failed"]))
    assert '<p class="big">0.873</p>' in page
    assert "0.810–0.920" in page
    assert "v9 is failed" in page
    assert "store.model.id" in page
    assert 'class="warnings"' not in render(tmp_path, make_content())


def test_data_holds_every_video_worst_first(tmp_path):
    videos = [
        make_video("right", (0.0, 1.0, 0.0)),
        make_video("wrong", (1.0, 0.0, 1.0)),
        *[make_video(f"middle-{i}", (0.5, 0.5, 0.5)) for i in (1, 0)],
    ]
    page = render(tmp_path, make_content(videos=videos))
    names = re.findall(r"<article.*?<h3>(.*?)</h3>", page, re.DOTALL)
    assert names == ["wrong", "middle-0", "middle-1", "right"]
    shown = page_data(page)["videos"]
    assert [video["smoothed"][0] for video in shown] == [1.0, 0.5, 0.5, 0.0]
    assert shown[0]["stops"] == [24, 48, 72]
    assert shown[0]["annotations"] == [[24, 48]]


def test_error_weighs_frames():
    video = make_video(smoothed=(0.2, 0.9), annotations=((12, 34),), num_frames=34)
    video = replace(video, stop_frames=np.array([24, 34]))
    truth = np.zeros(34)
    truth[12:] = 1
    expanded = np.repeat([0.2, 0.9], [24, 10])
    assert video.error == pytest.approx(np.abs(expanded - truth).mean())
    empty = np.array([], dtype=int)
    assert make_video(smoothed=(), start_frames=empty, stop_frames=empty).error == 0


def test_scores_that_are_not_finite_keep_the_data_valid_json(tmp_path):
    page = render(tmp_path, make_content(roc=(np.array([0, np.nan]), np.array([0, np.inf]))))
    assert page_data(page)["roc"] == [[0, None], [0, None]]


def test_z_scores_are_filled_in_over_the_layers_above_zero(tmp_path):
    layers = page_data(render(tmp_path, make_content()))["layers"]
    assert layers["kl_divergence_z"] == [None, -1.0, 1.0, None]
    assert layers["entropy_z"] == [None, 0.0, 0.0, None]
    given = make_content().layers | {"ldr_z": [None, 7.0, 8.0, None]}
    layers = page_data(render(tmp_path, make_content(layers=given)))["layers"]
    assert layers["ldr_z"] == [None, 7.0, 8.0, None]


def test_layers(tmp_path):
    page = render(tmp_path, make_content())
    assert "embedding, never chosen" in page
    assert "2 <small>chosen</small>" in page
    assert 'id="saliency"' not in render(tmp_path, make_content(layers={}))


def test_hundreds_of_videos_keep_the_page_small(tmp_path):
    rng = np.random.default_rng(0)
    videos = [make_video(f"video-{i:03d}", rng.random(122)) for i in range(800)]
    page = render(tmp_path, make_content(videos=videos))
    assert len(page_data(page)["videos"]) == 800
    assert len(page) < 4_000_000
