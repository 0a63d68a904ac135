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
    sigma: options.Sigma = 0.4,
    threshold: options.Threshold = "auto",
    resamples: options.Resamples = 1000,
    seed: options.Seed = 0,
    manifest: options.Manifest = None,
    length: options.Length = "true",
    ends: options.Ends = "exclusive",
) -> None:
    """Score the test videos, localize anomalies, measure AUC and AP, write a report (CPU only)."""
    from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate
    from hiprobe.evaluate.test_set import Convention

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
    )
    with status("evaluating") as on_step:
        metrics = run_evaluate(config, on_step)
    print_metrics(metrics, results)


def print_metrics(metrics: dict[str, Any], results: Path) -> None:
    """Print the areas of all variants and controls, and where the report is."""
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
    for name, areas in metrics["controls"].items():
        table.add_row(f"control: {name}", _area(areas, "auc"), _area(areas, "ap"), style="dim")
    warn(metrics["warnings"])
    terminal().print(table)
    smoothed = metrics["smoothed"]
    if smoothed["auc"] is None:
        say("AUC and AP are undefined: the test frames are of one class only.")
    else:
        say(f"AUC {smoothed['auc']:.4f}  AP {smoothed['ap']:.4f}  (smoothed scores)")
    say(f"report: {results / 'report.html'}")


def _area(areas: dict[str, Any], name: str) -> str:
    """Write an area with its confidence interval, where there is one."""
    if areas[name] is None:
        return "undefined"
    interval = areas.get(f"{name}_ci")
    return f"{areas[name]:.4f}" + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")
