"""Scores against a computation by hand."""

import json
import math
import statistics

import numpy as np
import pytest

from worldmodels.envs import TASKS
from worldmodels.report.scores import interval, read_scores, score, spread, table, write_scores
from worldmodels.report.statistics import FEWEST, half_width

RETURNS = [3.0, 8.5, 1.0, 4.0, 6.25, 9.0, 2.5, 7.0, 5.5, 4.75, 3.25, 6.0]


def entry(returns=RETURNS, temperature=None, controller="random (fresh)", world="real"):
    return score(TASKS["toy"], world, controller, returns, wall_s=1.23, temperature=temperature, first_seed=5,
                 workers=2, device="cpu")


def test_a_score_has_the_mean_its_deviation_and_its_interval():
    s = entry()
    mean, std = statistics.mean(RETURNS), statistics.stdev(RETURNS)
    half = 2.20099 * std / math.sqrt(12)                # Student's t of 11 degrees of freedom
    assert s["mean"] == pytest.approx(mean) and s["std"] == pytest.approx(std)
    assert s["ci95"] == pytest.approx([mean - half, mean + half], rel=1e-5)
    assert s["episodes"] == 12 and s["returns"] == RETURNS
    assert interval(s) == f"{mean - half:.0f} to {mean + half:.0f}" and spread(s) == f"{mean:.0f} ± {std:.0f}"


def test_a_score_of_one_episode_has_no_deviation():
    s = entry([7.0])
    assert (s["mean"], s["std"], s["ci95"]) == (7.0, None, None)
    assert spread(s) == "7"


@pytest.mark.parametrize("episodes", (1, 2, FEWEST - 1, FEWEST))
def test_a_few_episodes_have_no_interval(episodes):
    """One of so few says next to nothing, and of one it would be none at all."""
    s = json.loads(json.dumps(entry(RETURNS[:episodes]), allow_nan=False))
    assert (s["ci95"] is None) == (interval(s) == "too few episodes") == (episodes < FEWEST)
    assert np.isnan(half_width(np.ones((3, episodes)))).tolist() == [episodes < FEWEST] * 3


def test_a_score_has_what_the_report_promises_as_json():
    s = json.loads(json.dumps(entry(np.array(RETURNS, np.float32), 1.15)))
    assert s.keys() == {"task", "env_id", "world", "temperature", "controller", "episodes", "first_seed", "mean", "std",
                        "ci95", "returns", "wall_s", "workers", "device", "git_commit"}
    assert s["env_id"] == TASKS["toy"].env_id


def test_the_interval_holds_the_mean_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        low, high = entry(rng.normal(10, 3, 60))["ci95"]
        hits += low < 10 < high
    assert 52 <= hits <= 60


def test_the_table_has_a_line_for_each_score():
    lines = table([entry(), entry(temperature=1.15, controller="controller from the dream"), entry([7.0])]).splitlines()
    assert len(lines) == 4
    assert all(text in lines[1] for text in ("random (fresh)", "5 ± 2", "4 to 7")) and lines[1].split()[-1] == "12"
    assert "controller from the dream (tau 1.15)" in lines[2]
    assert "7 " in lines[3] and "too few episodes" in lines[3] and lines[3].split()[-1] == "1"


def test_scores_are_kept_in_a_file_that_says_its_format(tmp_path):
    scores = [entry(), entry([7.0], 1.15)]
    write_scores(tmp_path / "scores.json", scores)
    assert json.loads((tmp_path / "scores.json").read_text()).keys() == {"format", "scores"}
    assert read_scores(tmp_path / "scores.json") == scores


def test_a_list_of_scores_as_it_was_written_before_is_read(tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps([entry()]))
    assert read_scores(tmp_path / "scores.json") == [entry()]
