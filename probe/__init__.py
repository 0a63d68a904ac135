"""CPU jobs on a store: layer saliency (DLSP), the scorer, the threshold. Never imports torch.

`run_probe` is the whole job. Its steps, for notebooks, each one call::

    samples = draw_samples(store, num_videos=20, seed=1)    # choose the videos, average segments
    layer = dlsp(measure_layers(store, samples)).layer      # the most salient layer
    scorer = fit_scorer("logistic", samples.states(store, layer), samples.is_anomalous)

The names below are imported when first used, so that ``import hiprobe.probe`` is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hiprobe.probe.layers import analyse_layers
    from hiprobe.probe.pipeline import ProbeConfig, measure_layers, run_probe
    from hiprobe.probe.saliency import LayerStatistics, Saliency, dlsp, layer_statistics
    from hiprobe.probe.samples import Samples, draw_samples
    from hiprobe.store.scorers import fit_scorer

__all__ = [
    "LayerStatistics",
    "ProbeConfig",
    "Saliency",
    "Samples",
    "analyse_layers",
    "dlsp",
    "draw_samples",
    "fit_scorer",
    "layer_statistics",
    "measure_layers",
    "run_probe",
]
_IN_MODULE = {
    "hiprobe.probe.layers": ("analyse_layers",),
    "hiprobe.probe.pipeline": ("ProbeConfig", "measure_layers", "run_probe"),
    "hiprobe.probe.saliency": ("LayerStatistics", "Saliency", "dlsp", "layer_statistics"),
    "hiprobe.probe.samples": ("Samples", "draw_samples"),
    "hiprobe.store.scorers": ("fit_scorer",),
}


def __getattr__(name: str) -> Any:
    for module, names in _IN_MODULE.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
