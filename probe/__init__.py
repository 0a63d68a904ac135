"""CPU jobs on a store: layer saliency (DLSP), the scorer, the threshold. Never imports torch.

The building blocks are in `hiprobe.probe.saliency`, `hiprobe.probe.samples` and
`hiprobe.store.scorers`; the job that puts them together is `hiprobe.probe.pipeline.run_probe`.
"""
