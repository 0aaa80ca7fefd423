"""The verdict says better, worse or neither, as the numbers are."""

import numpy as np
import pytest

from worldmodels.envs import TASKS
from worldmodels.report.scores import score
from worldmodels.report.verdict import standings, verdict


def played(name, mean, std, episodes=100, task="take_cover"):
    values = np.random.default_rng(0).standard_normal(episodes)
    values = mean + std * (values - values.mean()) / values.std(ddof=1)
    return score(TASKS[task], "real", name, values, temperature=None)


RANDOM = [played("random (held)", 353, 180), played("random (mixed)", 421, 310)]


@pytest.mark.parametrize("mean, random, paper", (
    (1500, "more than", "more than"), (1000, "more than", "not to be told apart from"),
    (430, "not to be told apart from", "less than"), (200, "less than", "less than")))
def test_it_compares_with_the_best_random_policy_and_the_paper(mean, random, paper):
    own = played("controller from the dream", mean, 500)
    said = verdict(TASKS["take_cover"], own, [*RANDOM, own])
    assert f"survives {mean} frames" in said
    assert f"{random} the best random policy (421)" in said and f"{paper} the paper's controller (1092" in said
    rows = standings(TASKS["take_cover"], own, [*RANDOM, own], played("controller from the dream", 900, 400))
    assert [row[1] for row in rows] == [f"{mean} ± 500", "421 ± 310", "900 ± 400", "1092 ± 556"]
    assert [row[1] for row in standings(TASKS["take_cover"], own, [own])] == [f"{mean} ± 500", "1092 ± 556"]


def test_few_episodes_are_not_compared_and_other_games_have_no_paper():
    own = played("controller from the dream", 7, 1, episodes=3, task="toy")
    said = verdict(TASKS["toy"], own, [own])
    assert "too few" in said and "paper" not in said and "random" not in said
