"""Writes demo_model_states.npz: one segment's keyframes, and its states by the demo's model.

Run it, after training the model again, from the repository's root:
``python tests/extract/golden/make_demo_model_states.py``.
"""

from pathlib import Path

import numpy as np

from hiprobe.demo.clips import Renderer, plan_clips
from hiprobe.demo.model import TRAINED_MODEL
from hiprobe.demo.training_data import draw_sample
from hiprobe.extract.backbone import Backbone, BackboneConfig

OUT = Path(__file__).with_name("demo_model_states.npz")

if __name__ == "__main__":
    clip = next(c for c in plan_clips(60) if c.category == "fight" and c.width == 128)
    sample = draw_sample(clip, Renderer(clip), clip.annotations[0][0] + 12, "subject")
    backbone = Backbone(BackboneConfig(str(TRAINED_MODEL), dtype="float32", device="cpu"))
    states = backbone.states(backbone.prepare([sample.segment], clip.fps))
    np.savez_compressed(
        OUT, keyframes=sample.segment.keyframes, fps=clip.fps, states=states[:, 0], text=sample.text
    )
    print(f"{OUT}: {sample.text}")
