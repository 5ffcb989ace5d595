"""Exponents of power laws that are known."""

from __future__ import annotations

import numpy as np
import pytest

from profilers.growth import growth

LENGTHS = [64, 128, 256, 512, 1024, 2048]


@pytest.mark.smoke
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_a_power_law_is_found(power: float) -> None:
    fit = growth(LENGTHS, [3.0 * n**power for n in LENGTHS])
    assert fit is not None and fit.points == 6
    assert fit.exponent == pytest.approx(power, abs=1e-9)
    assert fit.tail == pytest.approx(power, abs=1e-9)
    assert fit.error == pytest.approx(0.0, abs=1e-9)


def test_a_constant_cost_hides_growth_less_in_the_upper_half() -> None:
    fit = growth(LENGTHS, [500.0 + n for n in LENGTHS])
    assert fit is not None
    assert fit.exponent < fit.tail < 1 and fit.error > 0.01


def test_the_error_covers_the_truth_under_noise() -> None:
    random = np.random.default_rng(0)
    misses = 0
    for _ in range(50):
        fit = growth(LENGTHS, [n**1.5 * np.exp(random.normal(0, 0.1)) for n in LENGTHS])
        assert fit is not None
        misses += abs(fit.exponent - 1.5) > 3 * fit.error
    assert misses <= 5


def test_the_order_does_not_matter_and_zeros_are_left_out() -> None:
    assert growth([4, 1, 2], [16.0, 1.0, 4.0]) == growth([1, 2, 4], [1.0, 4.0, 16.0])
    fit = growth([1, 2, 4], [0.0, 2.0, 4.0])
    assert fit is not None and fit.points == 2 and fit.exponent == pytest.approx(1) and fit.error == 0


@pytest.mark.parametrize("pairs", [[], [(64, 1.0)], [(64, 1.0), (64, 2.0)], [(64, 0.0), (128, 1.0)]])
def test_nothing_to_fit(pairs: list[tuple[int, float]]) -> None:
    assert growth([n for n, _ in pairs], [v for _, v in pairs]) is None
