"""What the model itself would answer, read off stored states; nothing of it is trained."""

from __future__ import annotations

from scipy.special import expit
from sklearn.metrics import roc_auc_score

from hiprobe.probe.samples import Samples
from hiprobe.store import FeatureStore


def lens_auc(store: FeatureStore, samples: Samples, layer: int) -> dict[str, float]:
    """AUC of p(yes) as one layer's states would have it, over samples: the logit lens.

    A sample's p(yes) is the mean of its segments'. Yes counts as anomalous, whatever the labels: an
    AUC below ½ says that the model's answer is the wrong way round, or the prompt no such question.

    Returns
    -------
    dict
        ``lens_auc``; nothing where the store has no answers, or none for yes or for no.
    """
    answers = store.answers
    if answers is None or not answers.has_yes_and_no:
        return {}
    p_yes = samples.averaged(
        store, layer, lambda states: expit(answers.yes_log_odds(states, layer))[:, None]
    )
    return {"lens_auc": float(roc_auc_score(samples.is_anomalous, p_yes[:, 0]))}
