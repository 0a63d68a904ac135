"""CPU jobs on a store: layer saliency (DLSP), the scorer, the threshold. Never imports torch."""

from hiprobe.probe.saliency import LayerStatistics, dlsp, layer_statistics
from hiprobe.probe.scorers import LogisticScorer, fit_logistic

__all__ = ["LayerStatistics", "LogisticScorer", "dlsp", "fit_logistic", "layer_statistics"]
