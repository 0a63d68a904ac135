"""`hiprobe evaluate`, and how the measures of any evaluation are printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hiprobe.cli import options
from hiprobe.cli.output import say, status, terminal, warn


def evaluate(
    store: options.StorePath,
    probe: options.ProbePath,
    results: options.NewResults,
    split: options.Split = "test",
    sigma: options.Sigma = options.DEFAULT_SIGMA,
    threshold: options.Threshold = "auto",
    trust: options.Trust = None,
    resamples: options.Resamples = 1000,
    seed: options.Seed = 0,
    manifest: options.Manifest = None,
    length: options.Length = "true",
    ends: options.Ends = "exclusive",
    allow_overlap: options.AllowOverlap = False,
    refine: options.Refine = None,
) -> None:
    """Score the test videos, localize anomalies, measure AUC and AP, write a report (CPU only)."""
    from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate
    from hiprobe.evaluate.test_set import Convention
    from hiprobe.store.scorers import trust as trust_types

    trust_types(*(trust or ()))
    config = EvaluateConfig(
        store=store,
        probe=probe,
        results=results,
        split=split,
        sigma=sigma,
        threshold=threshold,
        num_resamples=resamples,
        seed=seed,
        manifest=manifest,
        convention=Convention(length, ends),
        allow_overlap=allow_overlap,
        refine=refine,
    )
    with status("evaluating") as on_step:
        metrics = run_evaluate(config, on_step)
    print_metrics(metrics, results)


def print_metrics(metrics: dict[str, Any], results: Path) -> None:
    """Print the areas of all variants and controls, what is measured besides, and the report."""
    warn(metrics["warnings"])
    # Without labels of frames a warning has said so, and a table of dashes adds nothing.
    if metrics["num_anomalous_frames"] is not None:
        _print_frame_level(metrics)
    _print_video_level(metrics["video_level"])
    if events := metrics["events"]:
        _print_events(events)
    smoothed = metrics["smoothed"]
    if smoothed["auc"] is not None:
        refined = ", refined within each video" if metrics.get("refinement") else ""
        say(f"AUC {smoothed['auc']:.4f}  AP {smoothed['ap']:.4f}  (smoothed scores{refined})")
        _print_draws(metrics.get("draws"))
    elif metrics["num_anomalous_frames"] is not None:
        say("AUC and AP are undefined: the test frames are of one class only.")
    say(f"report: {results / 'report.html'}")


def _print_draws(draws: dict[str, Any] | None) -> None:
    """Say how much other training videos would change: what no interval over test videos holds."""
    for key, name in {"auc": "AUC", "ap": "AP"}.items():
        if draws and (one := draws[key]):
            total = one["se_total"]
            say(
                f"{name} over {draws['num_draws']} draws of training videos: {one['mean']:.4f} ± "
                f"{one['std']:.4f}"
                + (f"; standard error of draws and test videos together {total:.4f}" * bool(total))
            )


def _print_frame_level(metrics: dict[str, Any]) -> None:
    """Print the areas of all variants and controls."""
    from rich.table import Table

    table = Table(title="Frame level, all test videos together; 95 % intervals over videos")
    for name in ("scores", "AUC", "AP"):
        table.add_column(name, justify="left" if name == "scores" else "right")
    for name in ("raw", "smoothed", "localized", "binary"):
        areas = metrics[name]
        style = "bold green" if name == "smoothed" else None
        table.add_row(name, _area(areas, "auc"), _area(areas, "ap"), style=style)
    table.add_section()
    if last := metrics.get("last_layer"):
        name = f"last layer ({last['layer']}), smoothed"
        table.add_row(name, _area(last, "auc"), _area(last, "ap"))
    if refined := metrics.get("refinement"):
        without = refined["without"]
        table.add_row("not refined, smoothed", _area(without, "auc"), _area(without, "ap"))
    for name, areas in metrics["controls"].items():
        table.add_row(f"control: {name}", _area(areas, "auc"), _area(areas, "ap"), style="dim")
    terminal().print(table)


def _print_video_level(statistics: dict[str, Any]) -> None:
    """Print how well a video's highest and mean score tell whether it is anomalous."""
    from rich.table import Table

    table = Table(title="Video level: one score a video against its label")
    for name in ("score of a video", "AUC", "AP"):
        table.add_column(name, justify="left" if name == "score of a video" else "right")
    for name, areas in statistics.items():
        table.add_row(f"its {name}", _area(areas, "auc"), _area(areas, "ap"))
    terminal().print(table)


def _print_events(events: dict[str, Any]) -> None:
    """Print, in a line each, what is found at T and at so many false alarms an hour."""
    at_rates = {f"{rate}/h": at for rate, at in events["at_false_alarms_per_hour"].items()}
    for name, point in {"T": events["at_threshold"], **at_rates}.items():
        if point is None or point["recall"] is None:
            continue
        rate, delay = point["false_alarms_per_hour"], point["delay_seconds"]
        say(
            f"events at {name}: {point['num_found']} of {events['num_events']} found"
            + (f", {rate:.1f} false alarms an hour" if rate is not None else "")
            + (f", median delay {delay['median']:.1f} s" if delay else "")
        )


def _area(areas: dict[str, Any], name: str) -> str:
    """Write an area with its confidence interval, where there is one."""
    if areas[name] is None:
        return "undefined"
    interval = areas.get(f"{name}_ci")
    return f"{areas[name]:.4f}" + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")
