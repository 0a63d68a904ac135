"""Any estimator of scikit-learn's kind, stored by skops: no pickle, and only trusted types."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from hiprobe.store import fields
from hiprobe.store.errors import HiProbeError
from hiprobe.store.scorers import named
from hiprobe.store.scorers.base import Scorer, vector
from hiprobe.store.scorers.linear import CONSTANT_SHARE
from hiprobe.store.scorers.packed import decoded

# A stored probability of 0 or 1 has no logarithm.
SMALLEST_PROBABILITY = 1e-9
# What one scorer may take in probe.json, and unpacked: a file can claim any size.
MAX_BYTES, MAX_UNPACKED_BYTES = 2**25, 2**28


@dataclass(frozen=True)
class EstimatorScorer(Scorer):
    """An estimator that the user named, on standardised features.

    Its ``decision_function`` is taken as log odds or, without one, the log odds of its
    ``predict_proba``. An outlier detector (`IsolationForest`, `OneClassSVM`, …) learns the normal
    samples only; its decision, turned round, is centred and scaled by those of the training
    samples, and its arsinh taken, as of `OneClassScorer`.

    Attributes
    ----------
    name : str
        ``module:Class``; what is named may also be a function that makes an estimator.
    estimator : object
        Fitted.
    mean, scale : (feature,) float64
        Of the training samples; a dimension that does not vary has scale infinity.
    centre, spread : float
        0 and 1 for a classifier.
    """

    name: str
    estimator: Any
    mean: np.ndarray
    scale: np.ndarray
    centre: float = 0.0
    spread: float = 1.0

    kind: ClassVar[str] = "module:Class"
    takes_penalty: ClassVar[bool] = False

    @classmethod
    def fit(cls, states: np.ndarray, is_anomalous: np.ndarray, l2: float = 0.0) -> Self:
        """Not without a name: see `fit_named`."""
        raise HiProbeError("a scorer of your own is asked for by its name, module:Class.")

    @classmethod
    def fit_named(cls, name: str, states: np.ndarray, is_anomalous: np.ndarray) -> Self:
        """Fit an estimator on (sample, feature) states and (sample,) bool labels.

        Raises
        ------
        HiProbeError
            There is no such class, it is no estimator that can score, or it refuses the samples.
        """
        estimator = new_estimator(name)
        one_class = _is_outlier_detector(estimator)
        states = np.asarray(states, dtype=np.float64)
        if one_class:
            states = states[~is_anomalous]
        mean, scale = states.mean(axis=0), states.std(axis=0)
        scale = np.where(scale > CONSTANT_SHARE * np.abs(mean), scale, np.inf)
        unscaled = cls(name, estimator, mean, scale)
        try:
            inputs = (states - mean) / scale
            estimator.fit(*((inputs,) if one_class else (inputs, is_anomalous.astype(int))))
            values = unscaled.logits(states)
        except (ValueError, TypeError) as error:
            raise HiProbeError(
                f"the scorer {name!r} refuses {len(states)} samples of {states.shape[1]} features: "
                f"{error}"
            ) from error
        if not one_class:
            return unscaled
        return cls(name, estimator, mean, scale, float(values.mean()), float(values.std()) or 1.0)

    def logits(self, states: np.ndarray) -> np.ndarray:
        """Log odds of (sample, feature) states: (sample,) float64.

        Raises
        ------
        HiProbeError
            The estimator gives something else than a finite number for each.
        """
        states = (np.asarray(states, dtype=np.float64) - self.mean) / self.scale
        if hasattr(self.estimator, "decision_function"):
            values = np.asarray(self.estimator.decision_function(states), dtype=np.float64)
            values = -values if self._is_reversed else values
        else:
            values = _log_odds(np.asarray(self.estimator.predict_proba(states), dtype=np.float64))
        if values.shape != (len(states),) or not np.isfinite(values).all():
            raise HiProbeError(
                f"the scorer {self.name!r} gives values of shape {values.shape} for {len(states)} "
                "samples, or some that are not finite; expected a finite number for each."
            )
        values = (values - self.centre) / self.spread
        return np.arcsinh(values) if self._is_reversed else values

    @cached_property
    def _is_reversed(self) -> bool:
        """Whether its decision falls where a sample is less normal."""
        return _is_outlier_detector(self.estimator)

    @property
    def num_features(self) -> int:
        """Width of the hidden states."""
        return len(self.mean)

    def to_json(self) -> dict[str, Any]:
        """The object `scorer` of `probe.json`; null stands for an infinite scale.

        Raises
        ------
        HiProbeError
            skops cannot store the estimator, or it takes too much room.
        """
        import skops.io
        from skops.io.exceptions import UnsupportedTypeException

        try:
            data = skops.io.dumps(self.estimator, compression=zipfile.ZIP_DEFLATED)
        except (UnsupportedTypeException, TypeError, AttributeError) as error:
            raise HiProbeError(
                f"the scorer {self.name!r} cannot be stored without pickle: {error}."
            ) from error
        if len(data) > MAX_BYTES:
            raise HiProbeError(
                f"the scorer {self.name!r} takes {len(data):,} bytes, expected at most "
                f"{MAX_BYTES:,}. Make it smaller, for example with fewer trees."
            )
        # They are of this process: reading them back brings nothing into it.
        named.trust(*skops.io.get_untrusted_types(data=data))
        return {
            "kind": self.name,
            "mean": self.mean.tolist(),
            "scale": [value if np.isfinite(value) else None for value in self.scale.tolist()],
            "centre": self.centre,
            "spread": self.spread,
            "skops": base64.b64encode(data).decode(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises
        ------
        HiProbeError
            It holds types that are neither scikit-learn's own, as skops knows them, nor trusted.
        """
        name, mean = fields.text(content["kind"], "kind"), vector(content, "mean")
        listed = fields.items(content["scale"], "scale")
        scale = np.array(
            [np.inf if value is None else fields.number(value, "scale") for value in listed]
        )
        centre, spread = (fields.number(content[part], part) for part in ("centre", "spread"))
        if scale.shape != mean.shape or not (scale > 0).all() or not spread > 0:
            raise ValueError("scale and spread have to be above 0, and scale as long as mean")
        estimator = _revived(decoded(content["skops"], "skops"), name)
        return cls(name, estimator, mean, scale, centre, spread)


def new_estimator(name: str) -> Any:
    """Make an estimator that is not fitted; what it draws at random is always the same.

    Raises
    ------
    HiProbeError
        There is no such class, or it is no estimator that can score.
    """
    made = named.named_object(name)
    try:
        estimator = made()
    except TypeError as error:
        raise HiProbeError(
            f"the scorer {name!r} cannot be made without arguments ({error}). Name a function that "
            "makes it, in a module of your own."
        ) from error
    _check_can_score(estimator, name)
    settings = estimator.get_params() if hasattr(estimator, "get_params") else {}
    seeds = {
        key: 0
        for key, value in settings.items()
        if key.split("__")[-1] == "random_state" and value is None
    }
    return estimator.set_params(**seeds) if seeds else estimator


def needs_anomalies(name: str) -> bool:
    """Whether an estimator has to see anomalous samples: all but outlier detectors do."""
    return not _is_outlier_detector(new_estimator(name))


def _check_can_score(estimator: Any, name: str) -> None:
    """Refuse what has no `fit`, or neither of the two methods that score."""
    scores = any(hasattr(estimator, method) for method in ("decision_function", "predict_proba"))
    if not hasattr(estimator, "fit") or not scores:
        raise HiProbeError(
            f"the scorer {name!r} is a {type(estimator).__name__} without fit, or without "
            "decision_function and predict_proba; expected a classifier or an outlier detector."
        )


def _is_outlier_detector(estimator: Any) -> bool:
    from sklearn.base import is_outlier_detector

    try:
        return bool(is_outlier_detector(estimator))
    except AttributeError:  # a class that does not inherit scikit-learn's base
        return False


def _log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Log odds of the second of two classes: (sample, 2) → (sample,)."""
    if probabilities.ndim != 2 or probabilities.shape[1] != 2:
        return probabilities  # of a shape that is refused
    chance = np.clip(probabilities[:, 1], SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return np.log(chance) - np.log1p(-chance)


def _revived(data: bytes, name: str) -> Any:
    """Load an estimator, if all its types are trusted."""
    import skops.io

    if len(data) > MAX_BYTES or _unpacked_size(data) > MAX_UNPACKED_BYTES:
        raise ValueError(f"skops is larger than {MAX_BYTES:,} bytes, {MAX_UNPACKED_BYTES:,} open")
    allowed = named.trusted()
    strange = sorted(set(skops.io.get_untrusted_types(data=data)) - allowed)
    if strange:
        wanted = " ".join(f"--trust {':'.join(one.rsplit('.', 1))}" for one in strange)
        raise HiProbeError(
            f"the scorer {name!r} holds types that are not trusted: {', '.join(strange)}. If you "
            f"know where the probe comes from, name them: {wanted} (in Python "
            "hiprobe.store.scorers.trust)."
        )
    try:
        estimator = skops.io.loads(data, trusted=sorted(allowed))
    except (ImportError, AttributeError, KeyError) as error:
        raise ValueError(f"its types cannot be made here: {error}") from error
    _check_can_score(estimator, name)
    return estimator


def _unpacked_size(data: bytes) -> int:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile as error:
        raise ValueError(f"skops: {error}") from error
