"""The folder of `hiprobe layers`: ``layers.csv``, ``tsne.csv``, ``summary.json``.

`probe` writes it; in a results' folder, as ``layers/``, the report shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd

from hiprobe.store import fields
from hiprobe.store.errors import HiProbeError, write_errors
from hiprobe.store.single_files import check_file, make_folder, read_json, write_json, write_text


@dataclass(frozen=True)
class LayerTables:
    """What tells layers apart.

    Attributes
    ----------
    table : DataFrame
        One row a layer, indexed by ``layer``: the metrics, their z-scores (``…_z``), ``saliency``,
        ``silhouette`` of the two classes, ``cv_auc`` and ``cv_auc_std`` of the scorer over samples
        in folds that part no video, ``chosen_share`` of the few-shot draws in which DLSP takes it;
        ``lens_auc`` where the store has answers: the AUC of p(yes) read at that layer.
    embeddings : DataFrame
        t-SNE: ``layer, sample, video_id, label, x, y``.
    summary : dict
        ``dlsp_layer``, ``best_cv_layer``, ``cv_auc_at_dlsp_layer``, ``cv_auc_at_best_layer``,
        ``spearman`` of saliency and ``cv_auc``, ``num_draws``, ``draw_fraction``, ``settings``;
        ``num_shuffles``, ``best_cv_null_95`` and ``best_cv_p_value``: what the best layer's
        ``cv_auc`` is when labels are shuffled by video.
    """

    table: pd.DataFrame
    embeddings: pd.DataFrame
    summary: dict[str, Any]

    def write(self, folder: Path) -> list[Path]:
        """Write the three files; return their paths. ``summary.json`` comes last."""
        make_folder(folder)
        with write_errors(folder):
            (folder / "summary.json").unlink(missing_ok=True)
        write_text(folder / "layers.csv", self.table.to_csv())
        write_text(folder / "tsne.csv", self.embeddings.to_csv(index=False))
        write_json(folder / "summary.json", self.summary, end="\n")
        return [folder / name for name in ("layers.csv", "tsne.csv", "summary.json")]

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read the folder; None where there are no tables.

        Raises
        ------
        HiProbeError
            They are damaged.
        """
        if not (folder / "summary.json").exists():
            return None
        try:
            for name in ("layers.csv", "tsne.csv"):
                check_file(folder / name)
            return cls(
                table=pd.read_csv(folder / "layers.csv", index_col="layer"),
                # A video may be called NA.
                embeddings=pd.read_csv(
                    folder / "tsne.csv", dtype={"video_id": str}, keep_default_na=False
                ),
                summary=fields.mapping(read_json(folder / "summary.json"), "summary.json"),
            )
        except (OSError, ValueError, KeyError) as error:
            raise HiProbeError(
                f"{folder}: not whole tables of layers ({error}). Make them again with "
                "`hiprobe layers`, or remove the folder."
            ) from error
