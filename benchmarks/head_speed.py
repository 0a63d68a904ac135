"""How fast are robust heads chosen, against a loop over heads? Part of ``make bench-probe``.

28 layers × 28 heads × 128 features (a 7 B model's), 200 samples, 2 prompts. The loop is what
HeadHunt-VAD's formulas come to with scikit-learn and SciPy, a head at a time. Both are timed in
turns on every seventh layer, and their numbers compared head by head, to 1e-6.

``python benchmarks/head_speed.py`` runs this part alone, and puts its ratio into
``benchmarks/out/probe.json`` beside the others.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from scipy.spatial.distance import pdist, squareform
from sklearn.cluster import KMeans
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import normalized_mutual_info_score

from hiprobe.probe.robust_heads import head_criteria, judge_heads

NUM_LAYERS, NUM_HEADS, WIDTH, NUM_SAMPLES = 28, 28, 128, 200
PROMPTS = ("", "severity")
EVERY = 7
OUT = Path("benchmarks/out/probe.json")


def criteria_by_the_loop(states: np.ndarray, is_anomalous: np.ndarray) -> np.ndarray:
    """Criteria of each head, as the paper's formulas have them: (head, criterion) float64."""
    return np.array(
        [
            _criteria(states[:, head].astype(np.float64), is_anomalous)
            for head in range(states.shape[1])
        ]
    )


def _criteria(own: np.ndarray, is_anomalous: np.ndarray) -> list[float]:
    normal, anomalous = own[~is_anomalous], own[is_anomalous]
    delta = anomalous.mean(0) - normal.mean(0)
    within = sum((len(one) - 1) * np.cov(one.T) for one in (normal, anomalous))
    w = np.linalg.pinv(within + 1e-6 * np.eye(len(delta))) @ delta
    lda = (w @ delta) ** 2 / (w @ within @ w)
    first, second = (ledoit_wolf(one)[0] for one in (normal, anomalous))
    kl = 0.5 * sum(
        np.trace(np.linalg.inv(b) @ a) - len(delta) + delta @ np.linalg.inv(b) @ delta
        + np.linalg.slogdet(b)[1] - np.linalg.slogdet(a)[1]
        for a, b in ((first, second), (second, first))
    )  # fmt: skip
    squared = squareform(pdist(own, "sqeuclidean"))
    kernel = np.exp(-squared / (2 * np.median(pdist(own, "sqeuclidean"))))
    mmd = (
        kernel[np.ix_(~is_anomalous, ~is_anomalous)].mean()
        + kernel[np.ix_(is_anomalous, is_anomalous)].mean()
        - 2 * kernel[np.ix_(~is_anomalous, is_anomalous)].mean()
    )
    far = squared.mean(1).argmax()
    start = own[[far, squared[far].argmax()]]
    clusters = KMeans(2, init=start, n_init=1, tol=0, algorithm="lloyd").fit_predict(own)
    return [lda, kl, mmd, normalized_mutual_info_score(is_anomalous, clusters)]


def time_heads() -> dict[str, float]:
    """Choose heads, then judge some layers' both ways in turns: the ratio of the times."""
    is_anomalous = np.arange(NUM_SAMPLES) % 2 == 1
    rng = np.random.default_rng(0)
    shape = (len(PROMPTS), NUM_LAYERS, NUM_SAMPLES, NUM_HEADS, WIDTH)
    states = rng.standard_normal(shape, dtype=np.float32)
    states[:, 12:, is_anomalous, 3, :20] += 0.5
    started = time.perf_counter()
    found = judge_heads(
        lambda prompt, layer: states[PROMPTS.index(prompt), layer],
        PROMPTS,
        range(NUM_LAYERS),
        is_anomalous,
    )
    print(f"robust heads of {NUM_LAYERS} layers: {time.perf_counter() - started:.1f} s")
    ours = loop = 0.0
    for prompt in range(len(PROMPTS)):
        for layer in range(0, NUM_LAYERS, EVERY):
            own, started = states[prompt, layer], time.perf_counter()
            head_criteria(own, is_anomalous)
            ours, started = ours + time.perf_counter() - started, time.perf_counter()
            by_loop = criteria_by_the_loop(own, is_anomalous)
            loop += time.perf_counter() - started
            np.testing.assert_allclose(found.criteria[prompt, layer], by_loop, rtol=1e-6, atol=1e-9)
    num_layers = len(PROMPTS) * len(range(0, NUM_LAYERS, EVERY))
    print(f"a layer: {ours / num_layers:.3f} s, the loop over its heads {loop / num_layers:.2f} s")
    return {"head_loop_over_ours": loop / ours}


def main() -> None:
    """Measure this part alone, and put it beside the others."""
    ratios = json.loads(OUT.read_text()) if OUT.exists() else {}
    ratios |= {name: round(value, 3) for name, value in time_heads().items()}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(ratios, indent=1) + "\n")
    print(json.dumps(ratios, indent=1))


if __name__ == "__main__":
    main()
