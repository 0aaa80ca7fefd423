"""Every chart can be drawn of what there is, be it of a single episode."""

import warnings

import numpy as np
import pytest

from pipeline.report import score_table
from worldmodels.envs import TASKS
from worldmodels.report import page, plots
from worldmodels.report.scores import score
from worldmodels.report.sim_to_real_gap import SimToRealGap

NAMES = ("random (held)", "random (fresh)", "controller from the dream")


def scores(episodes, task="take_cover"):
    """Of each policy in both worlds."""
    rng, entries = np.random.default_rng(0), []
    for world, tau in (("real", None), ("dream", 1.05)):
        entries += [score(TASKS[task], world, name, rng.uniform(100, 900, episodes), temperature=tau, evolved_at=1.0)
                    for name in NAMES]
    return entries


def gap(deaths):
    """Of few moments; where there were deaths, of one episode's."""
    rng = np.random.default_rng(0)
    left = rng.integers(1, 40, 12).astype(float) if deaths else np.full(12, np.inf)
    lived, before = rng.integers(1, 42, (12, 16)), {2: 0.5, 4: 0.25} if deaths else {}
    return SimToRealGap(left, lived, before, *rng.random((2, 9)), rng.random((2, 9)))


def panels(episodes):
    """Every panel that is made of scores or of returns."""
    s, rng = scores(episodes), np.random.default_rng(1)
    returns = {world: rng.uniform(0, 9, (4, episodes)) for world in ("real", "dream")}
    return [plots.intervals(s), *plots.returns(s), *plots.dream_vs_real(s), *plots.temperature(s),
            *plots.rounds([(1.0, s), (5.0, s)]),
            plots.warmer({0.5: returns["dream"][0], 1.0: returns["dream"][1]}, s[2], 1.0),
            *(panel for deaths in (True, False) for panel in plots.sim_to_real_gap(gap(deaths), [s[2], s[5]], 4)),
            plots.controllers(returns, {"all": (slice(None), "black")}),
            plots.evolution(np.arange(4), returns, "dream"),
            plots.calibrated_reward(rng.random(episodes), rng.random(episodes))]


@pytest.mark.parametrize("episodes", (1, 2, 9, 10, 40))
def test_every_panel_can_be_drawn_of_any_number_of_episodes(episodes, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)          # of means of nothing, and of what is no number
        plots.save(plots.sheet(panels(episodes), "All", 4), tmp_path / "all.png")
    assert (tmp_path / "all.png").stat().st_size > 10_000


@pytest.mark.parametrize("episodes, said", ((1, "too few episodes"), (9, "too few episodes"), (10, " to ")))
def test_the_page_says_where_there_is_no_interval(episodes, said, tmp_path):
    s = scores(episodes)
    page.write(tmp_path / "page.html", "A title", [], [("Scores", page.charts([plots.intervals(s)]) + score_table(s))])
    text = (tmp_path / "page.html").read_text()
    assert text.count(said) == len(s) and "nan" not in text.split("<table>")[1]


def test_a_mean_without_an_interval_has_no_bar():
    assert np.isnan(plots.error_bar(scores(3))).all() and not np.isnan(plots.error_bar(scores(30))).any()
