# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds for a share of false alarms, against scipy's distributions and simulated parts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from anomalib_fbclip.modeling.few_shot import calibration
from anomalib_fbclip.results import thresholds
from anomalib_fbclip.results.records import Record
from anomalib_fbclip.results.thresholds import (
    SMALLEST_SHARE,
    Tally,
    best_threshold,
    describe_verdicts,
    is_wrong,
    limit_false_alarms,
    parse_share,
    photographs_for,
    sure_rank,
    sure_share,
)

shares = st.floats(0.001, 0.5)
scores = st.lists(st.floats(0, 1), max_size=12)


@given(st.integers(1, 5000), shares)
def test_a_rank_is_sure_by_the_binomial_distribution(count: int, share: float) -> None:
    rank = sure_rank(count, share)
    if rank:
        assert stats.binom.cdf(rank - 1, count, share) <= 0.05 + 1e-9
    assert stats.binom.cdf(rank, count, share) > 0.05 - 1e-9


@given(shares)
def test_the_number_of_photographs_that_a_share_takes(share: float) -> None:
    count = photographs_for(share)
    assert sure_rank(count, share) == 1
    assert sure_rank(count - 1, share) == 0
    assert sure_share(count) <= share + 1e-12 < sure_share(count - 1) + 1e-9 if count > 1 else True


@pytest.mark.parametrize("draw", [stats.norm(0.6, 0.1), stats.lognorm(0.8, scale=0.3), stats.beta(2, 5)])
@pytest.mark.parametrize(("count", "share"), [(59, 0.05), (93, 0.05), (30, 0.1), (300, 0.01)])
def test_what_is_sure_holds_for_any_distribution(draw: stats.rv_continuous, count: int, share: float) -> None:
    rng = np.random.default_rng(0)
    trials = stats.norm.cdf(draw.rvs((500, count), random_state=rng))  # any scale, as scores have 0..1
    limits = [limit_false_alarms(trial.tolist(), share) for trial in trials]
    assert all(limit.is_sure for limit in limits)
    exceeded = draw.sf(stats.norm.ppf([limit.threshold for limit in limits])) > share
    assert exceeded.mean() < 0.05 + 0.03


@pytest.mark.parametrize("count", [4, 8, 16, 28])
def test_few_photographs_give_about_the_share(count: int) -> None:
    """Of parts whose values are normally distributed, on average."""
    rng = np.random.default_rng(0)
    values = rng.normal(0.85, 0.1, (2000, count))
    trials = 1 / (1 + np.exp(-4 * (values - 1)))
    limits = [limit_false_alarms(trial.tolist(), 0.05) for trial in trials]
    assert not any(limit.is_sure for limit in limits)
    thresholds = np.array([limit.threshold for limit in limits])
    assert stats.norm(0.85, 0.1).sf(1 + np.log(thresholds / (1 - thresholds)) / 4).mean() == pytest.approx(
        0.05, abs=0.01
    )


@pytest.mark.parametrize("probability", [0.5, 0.8, 0.95, 0.99])
def test_quantiles_of_students_distribution(probability: float) -> None:
    for freedom, tolerance in (4, 0.1), (30, 1e-5):
        expected = stats.t(freedom).ppf(probability)
        assert thresholds._student(probability, freedom) == pytest.approx(expected, abs=tolerance)


def test_it_expects_what_the_model_does() -> None:
    for name in ("EXPECTED_SPREAD", "EXPECTED_WEIGHT", "STEEPNESS"):
        assert getattr(thresholds, name) == getattr(calibration, name)


def test_scores_at_the_ends() -> None:
    assert 0.5 <= limit_false_alarms([0.5] * 8, SMALLEST_SHARE).threshold <= 1
    assert 0 <= limit_false_alarms([0.0, 1.0], 0.01).threshold <= 1
    assert limit_false_alarms([0.0] * 60, 0.05).threshold == 0


def test_what_is_said() -> None:
    few = limit_false_alarms([0.2] * 8, 0.01).describe()
    assert "about 1 %" in few
    assert "299" in few
    assert "31.2 %" in few
    enough = limit_false_alarms([0.2] * 300, 0.01).describe()
    assert "at most 1 %" in enough
    assert "95 % sure, from 300" in enough
    assert "Threshold 0.200" in enough


def test_one_photograph() -> None:
    with pytest.raises(ValueError, match="2 good photographs"):
        limit_false_alarms([0.2], 0.1)


def test_of_two_best_thresholds_the_one_farthest_from_any_score() -> None:
    assert best_threshold([0.1, 0.5], [0.3, 0.9]) == Tally(pytest.approx(0.7), missed=1, false_alarms=0)


@given(scores, scores, st.floats(0, 1))
def test_the_best_threshold_is_the_best(good: list[float], bad: list[float], threshold: float) -> None:
    if not good + bad:
        with pytest.raises(ValueError, match="no scores"):
            best_threshold(good, bad)
        return
    best = best_threshold(good, bad)

    def count(threshold: float) -> Tally:
        return Tally(threshold, sum(score <= threshold for score in bad), sum(score > threshold for score in good))

    assert best == count(best.threshold)
    assert sum(best[1:]) <= sum(count(threshold)[1:])
    assert 0 <= best.threshold <= 1


def test_verdicts_are_tabulated() -> None:
    """What has no score, no truth or no threshold does not count."""
    scores = [(0.1, "normal"), (0.6, "normal"), (0.7, "anomalous"), (0.45, "anomalous")]
    rows = [
        Record("a.png", score=score, verdict="anomalous" if score > 0.5 else "normal", threshold=0.5, label=label)
        for score, label in scores
    ]
    rows += [
        Record("b.png", error="cut"),
        Record("c.png", score=0.9, threshold=0.5),
        Record("d.png", score=0.9, label="normal"),
    ]
    _, now, best = (line.split("  ") for line in describe_verdicts(rows))
    assert [cell.strip() for cell in now if cell] == ["verdicts", "0.500", "1 of 2", "1", "1 of 2"]
    assert "0.275" in best
    assert describe_verdicts(rows[4:]) == []


@pytest.mark.parametrize("text", ["0", "1e-300", "100%", "-1%", "x", "", "%", "nan", "inf"])
def test_no_share(text: str) -> None:
    with pytest.raises(ValueError, match="give 1%"):
        parse_share(text)


@given(shares)
def test_a_share_is_read_back(share: float) -> None:
    assert math.isclose(parse_share(f"{100 * share!r}%"), share, rel_tol=1e-12)
    assert parse_share(repr(share)) == share


def test_what_is_like_none_of_several_products_is_found() -> None:
    """It is no good part, whatever its score; and each product has a threshold of its own."""
    rows = [
        Record("a.png", score=0.1, verdict="unknown", threshold=0.5, label="anomalous"),
        Record("b.png", score=0.55, verdict="normal", threshold=0.6, label="normal"),
    ]
    assert not any(map(is_wrong, rows))
    verdicts = describe_verdicts(rows)[1]
    assert "0.500 or 0.600" in verdicts
    assert "1 of 1" in verdicts
    assert "0 of 1" in verdicts
