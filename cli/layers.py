"""`hiprobe layers`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hiprobe.cli import options
from hiprobe.cli.output import progress, say, terminal, warn

if TYPE_CHECKING:
    from hiprobe.store.layer_tables import LayerTables


def layers(
    store: options.StorePath,
    out: Annotated[Path, typer.Argument(help="The folder to write tables and figures to.")],
    split: options.Split = "train",
    labels: options.Labels = "video",
    samples_per_video: options.SamplesPerVideo = 1,
    scorer: options.Scorer = "logistic",
    draws: Annotated[
        int, typer.Option(min=1, help="Draw so many few-shot sets to see how stable DLSP is.")
    ] = 20,
    draw_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Draw this share of the videos each time.")
    ] = 0.5,
    tsne: Annotated[
        Any,
        options.layers(
            "auto", "Embed these layers by t-SNE; auto takes the first, DLSP's and the last."
        ),
    ] = "auto",
    shuffles: Annotated[
        int,
        typer.Option(
            min=0,
            help="Shuffle the labels by video so many times, to see how good the best layer looks "
            "when labels mean nothing; each takes as long as the table's own AUC.",
        ),
    ] = 20,
    bins: options.Bins = 50,
    seed: options.Seed = 0,
    manifest: options.Manifest = None,
) -> None:
    """Compare all layers: saliency, silhouette, cross-validated AUC, t-SNE (CPU only)."""
    from hiprobe.probe.layer_plots import write_analysis
    from hiprobe.probe.layers import analyse_layers
    from hiprobe.probe.pipeline import ProbeConfig

    config = ProbeConfig(
        store=store,
        split=split,
        labels=labels,
        samples_per_video=samples_per_video,
        scorer=scorer,
        num_bins=bins,
        seed=seed,
        manifest=manifest,
    )
    warnings: list[str] = []
    with progress("layers") as on_layer:
        tables = analyse_layers(
            config,
            num_draws=draws,
            draw_fraction=draw_fraction,
            tsne_layers=tsne,
            num_shuffles=shuffles,
            on_layer=on_layer,
            on_warning=warnings.append,
        )
    written = write_analysis(tables, out)
    warn(warnings)
    _print_analysis(tables, written)


def _print_analysis(tables: LayerTables, written: Sequence[Path]) -> None:
    """Print a row a layer, and how DLSP's choice compares with the best."""
    from rich.table import Table

    summary = tables.summary
    has_lens = "lens_auc" in tables.table
    table = Table("layer", "saliency", "silhouette", "AUC by video folds", "chosen by DLSP")
    if has_lens:
        table.add_column("AUC of p(yes)")
    for layer, row in tables.table.iterrows():
        style = "bold green" if layer == summary["dlsp_layer"] else None
        table.add_row(
            str(layer),
            f"{row['saliency']:+.3f}",
            f"{row['silhouette']:.3f}",
            f"{row['cv_auc']:.3f} ± {row['cv_auc_std']:.3f}",
            f"{row['chosen_share']:.0%} of draws",
            *([f"{row['lens_auc']:.3f}"] if has_lens else []),
            style=style,
        )
    terminal().print(table)
    say(
        f"DLSP chooses layer {summary['dlsp_layer']} (AUC {summary['cv_auc_at_dlsp_layer']:.3f}); "
        f"the best by cross-validation is {summary['best_cv_layer']} "
        f"({summary['cv_auc_at_best_layer']:.3f}{_null(summary)}); "
        f"rank correlation of saliency and AUC {summary['spearman']:+.2f}\n"
        f"wrote {', '.join(path.name for path in written)} in {written[0].parent}"
    )


def _null(summary: Mapping[str, Any]) -> str:
    """Say what the best layer's AUC would be if labels meant nothing."""
    if not summary["num_shuffles"]:
        return ""
    return (
        f"; with labels shuffled by video the best layer's is up to "
        f"{summary['best_cv_null_95']:.3f} in 95 % of {summary['num_shuffles']} shuffles, "
        f"p = {summary['best_cv_p_value']:.2g}"
    )
