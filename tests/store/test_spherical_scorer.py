"""Prototypes on the sphere: what they cannot depend on, and what they are by other means."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import ortho_group

from hiprobe.store.errors import HiProbeError
from hiprobe.store.scorers import fit_scorer, scorer_from_json
from hiprobe.store.scorers.spherical import KAPPA, frechet_mean, prototypes, unit


def cone(seed=0, num_samples=80, num_features=12):
    """States of a narrow cone, as a layer's are; anomalous ones lie to one side."""
    rng = np.random.default_rng(seed)
    is_anomalous = np.arange(num_samples) % 2 == 1
    states = rng.normal(size=(num_samples, num_features))
    states[:, 0] += 40.0
    states[is_anomalous, 1] += 3.0
    return states * rng.uniform(0.5, 2, size=(num_samples, 1)), is_anomalous


def test_it_tells_the_classes_of_new_states_apart():
    scorer = fit_scorer("spherical", *cone())
    states, is_anomalous = cone(seed=1)
    assert np.mean((scorer.logits(states) > 0) == is_anomalous) > 0.85
    assert (len(scorer.normal), len(scorer.anomalous)) == (3, 25)


@given(seed=st.integers(0, 1000))
def test_neither_axes_nor_lengths_matter(seed):
    states, is_anomalous = cone(seed)
    expected = fit_scorer("spherical", states, is_anomalous).logits(states)
    rotation = ortho_group.rvs(states.shape[1], random_state=seed)
    lengths = np.random.default_rng(seed).uniform(0.1, 50, size=(len(states), 1))
    turned = lengths * (states @ rotation)
    found = fit_scorer("spherical", turned, is_anomalous).logits(turned)
    np.testing.assert_allclose(found, expected, atol=1e-5)  # prototypes are kept in float32


def test_the_scores_are_those_of_the_formulas_written_down():
    states, is_anomalous = cone(3)
    scorer = fit_scorer("spherical", states, is_anomalous)
    for state, logit in zip(states, scorer.logits(states), strict=True):
        u = state / np.sqrt(np.sum(state**2))
        # The logarithm on the sphere: an angle, along the geodesic's first direction.
        angle = np.arccos(u @ scorer.pole)
        seen = angle * (u - np.cos(angle) * scorer.pole) / np.sin(angle)
        seen /= np.sqrt(np.sum(seen**2))
        anomalous, normal = (
            np.mean([np.exp(KAPPA * one @ seen) for one in own])
            for own in (scorer.anomalous, scorer.normal)
        )
        assert logit == pytest.approx(np.log(anomalous / normal), abs=1e-6)


def test_the_mean_has_the_least_sum_of_squared_angles():
    directions = unit(np.random.default_rng(5).normal(loc=[1.5, 0, 0, 0], size=(30, 4)))

    def loss(point):
        cosines = directions @ (point / np.linalg.norm(point))
        return np.sum(np.arccos(np.clip(cosines, -1, 1)) ** 2)

    found = minimize(loss, directions.mean(axis=0), method="BFGS", options={"gtol": 1e-9}).x
    np.testing.assert_allclose(frechet_mean(directions), unit(found[None])[0], atol=1e-6)


def test_prototypes_are_the_directions_of_their_own_samples():
    rng = np.random.default_rng(7)
    middles = unit(rng.normal(size=(3, 6)))
    directions = unit(np.repeat(middles, 20, axis=0) + 0.1 * rng.normal(size=(60, 6)))
    found = prototypes(directions, 3)
    own = np.argmax(directions @ found.T, axis=1)
    assert [len({*own[start : start + 20]}) for start in (0, 20, 40)] == [1, 1, 1]
    assert len({*own[::20]}) == 3
    again = [unit(directions[own == i].mean(axis=0)[None])[0] for i in range(3)]
    np.testing.assert_allclose(found, again, atol=1e-12)
    np.testing.assert_array_equal(prototypes(directions[:2], 3), directions[:2])


def test_states_that_do_not_differ_have_no_side():
    states, is_anomalous = np.ones((8, 3)), np.arange(8) % 2 == 1
    np.testing.assert_array_equal(fit_scorer("spherical", states, is_anomalous).logits(states), 0)
    nothing = np.zeros((8, 3))
    assert np.isfinite(fit_scorer("spherical", nothing, is_anomalous).logits(nothing)).all()


def test_a_scorer_without_prototypes_is_refused():
    content = fit_scorer("spherical", *cone()).to_json()
    with pytest.raises(HiProbeError, match="spherical scorer is damaged"):
        scorer_from_json(content | {"normal": {"shape": [0, 12], "base64": ""}})
    with pytest.raises(HiProbeError, match="lacks 'pole'"):
        scorer_from_json({name: content[name] for name in ("kind", "normal", "anomalous")})
