"""DLSP against plain references written from the paper's equations, one dimension at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiprobe.probe.saliency import (
    LayerStatistics,
    dlsp,
    entropy,
    kl_divergence,
    layer_statistics,
    local_discriminant_ratio,
)


def two_classes(seed, num_normal=30, num_anomalous=20, num_features=7):
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.1, 10, num_features)
    normal = rng.normal(0, scale, (num_normal, num_features))
    anomalous = rng.normal(rng.normal(size=num_features), 2 * scale, (num_anomalous, num_features))
    return normal, anomalous


def test_kl_divergence_is_equation_1():
    normal, anomalous = two_classes(0)
    for dim, value in enumerate(kl_divergence(normal, anomalous)):
        n, a = normal[:, dim], anomalous[:, dim]
        var_n, var_a = np.mean((n - n.mean()) ** 2), np.mean((a - a.mean()) ** 2)
        expected = 0.5 * (np.log(var_a / var_n) + (var_n + (n.mean() - a.mean()) ** 2) / var_a - 1)
        assert value == pytest.approx(expected, rel=1e-9)


def test_kl_divergence_agrees_with_torch_free_integration():
    """The closed form equals the integral of p log(p / q) for KL(N‖A), not KL(A‖N)."""
    normal, anomalous = two_classes(1, num_features=1)
    mu_n, mu_a = normal.mean(), anomalous.mean()
    sd_n, sd_a = normal.std(), anomalous.std()
    x = np.linspace(mu_n - 12 * sd_n, mu_n + 12 * sd_n, 200_001)
    log_p = -0.5 * ((x - mu_n) / sd_n) ** 2 - np.log(sd_n)
    log_q = -0.5 * ((x - mu_a) / sd_a) ** 2 - np.log(sd_a)
    integral = np.trapezoid(np.exp(log_p) / np.sqrt(2 * np.pi) * (log_p - log_q), x)
    assert kl_divergence(normal, anomalous)[0] == pytest.approx(integral, rel=1e-6)


def test_ldr_is_equation_3():
    normal, anomalous = two_classes(2)
    expected = (normal.mean(0) - anomalous.mean(0)) ** 2 / (normal.var(0) + anomalous.var(0))
    np.testing.assert_allclose(local_discriminant_ratio(normal, anomalous), expected, rtol=1e-5)


@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(2, 80))
def test_entropy_equals_numpys_histogram(seed, num_bins, num_samples):
    rng = np.random.default_rng(seed)
    # Coarse values fall on the bins' edges, where rounding decides.
    states = np.round(rng.normal(size=(num_samples, 5)), 1).astype(np.float32).astype(np.float64)
    expected = []
    for column in states.T:
        counts, _ = np.histogram(column, bins=num_bins, range=(column.min(), column.max()))
        share = counts[counts > 0] / num_samples
        expected.append(-(share * np.log2(share)).sum() if np.ptp(column) else 0.0)
    np.testing.assert_allclose(entropy(states, num_bins), expected, rtol=0, atol=1e-12)


def test_a_constant_dimension_contributes_nothing():
    states = np.full((10, 3), 0.1)
    states += np.random.default_rng(0).normal(size=(10, 3)) * 1e-17
    is_anomalous = np.arange(10) < 5
    assert layer_statistics(states, is_anomalous) == LayerStatistics(0.0, 0.0, 0.0)


def test_a_dimension_that_is_constant_in_one_class_stays_finite():
    normal, anomalous = two_classes(3)
    anomalous[:, 0] = 1.0
    normal[:, 1] = 1.0
    assert np.isfinite(kl_divergence(normal, anomalous)).all()
    assert np.isfinite(local_discriminant_ratio(normal, anomalous)).all()


@given(st.integers(0, 10_000))
def test_order_of_samples_and_dimensions_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    states = np.concatenate(two_classes(seed))
    is_anomalous = np.arange(50) >= 30
    samples, dims = rng.permutation(50), rng.permutation(7)
    one = layer_statistics(states, is_anomalous)
    two = layer_statistics(states[samples][:, dims], is_anomalous[samples])
    np.testing.assert_allclose(list(vars(one).values()), list(vars(two).values()), rtol=1e-9)


@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-100, 100))
def test_the_unit_of_a_dimension_does_not_matter(seed, scale, shift):
    normal, anomalous = two_classes(seed)
    for metric in (kl_divergence, local_discriminant_ratio):
        np.testing.assert_allclose(
            metric(normal, anomalous),
            metric(normal * scale + shift, anomalous * scale + shift),
            rtol=1e-6,
        )


@given(st.integers(0, 10_000))
def test_kl_divergence_is_never_negative(seed):
    assert (kl_divergence(*two_classes(seed)) >= 0).all()


def statistics_of(values):
    return {layer: LayerStatistics(*row) for layer, row in enumerate(values)}


def test_saliency_is_the_sum_of_z_scores_over_layers_above_0():
    rng = np.random.default_rng(0)
    values = rng.random((6, 3))
    values[0] = 1000.0  # layer 0 takes no part, whatever it holds
    result = dlsp(statistics_of(values))
    above = values[1:]
    expected = ((above - above.mean(0)) / above.std(0)).sum(1)
    np.testing.assert_allclose([result.saliency[layer] for layer in range(1, 6)], expected)
    assert result.layer == 1 + int(np.argmax(expected))
    assert 0 not in result.saliency


def test_ties_go_to_the_lowest_layer_and_constant_metrics_count_nothing():
    result = dlsp(statistics_of([(0, 0, 0), (1, 2, 5), (3, 2, 5), (3, 2, 5)]))
    assert result.layer == 2
    assert result.z_scores["ldr"] == {1: 0.0, 2: 0.0, 3: 0.0}
