"""A learned actor through all stages: it collects for a second round, and goes on from there."""

import numpy as np
import pytest

from pipeline.__main__ import pipeline
from pipeline.command import main
from tests.pipeline.conftest import INLINE
from worldmodels.agent import Agent
from worldmodels.files import load_arrays
from worldmodels.metrics import read_metrics
from worldmodels.report.scores import read_scores
from worldmodels.runs import Run

ACTOR = ["--task", "toy", "--run", "actor", "--rounds", "2", *INLINE, "--collect.episodes-per-round", "4",
         "--controller.kind", "actor", "--controller.units", "8", "--learner.kind", "actor_critic",
         "--learner.batch", "4", "--learner.horizon", "3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    main(pipeline, [*ACTOR, "--preset", "smoke", "--data", str(data), "--learner.steps", "5",
                    "--learner.learning-rate", "1e-12"])
    return Run(data / "toy" / "actor", 2)


def test_it_is_scored_drawn_and_loaded(run):
    assert {score["world"] for score in read_scores(run.report / "scores.json")} == {"real", "dream"}
    assert (run.report / "report.html").exists() and (run.report / "curves.png").exists()
    rows = read_metrics(run.folder, "behaviour")
    assert rows[-1]["step"] == 5 and {"loss", "critic", "return", "spread"} <= rows[-1].keys()
    agent = Agent.load(run.root)
    agent.reset(seed=0)
    assert agent.task.action_space.contains(agent.act(np.zeros((64, 64, 3), np.uint8)))


def test_the_second_rounds_actor_and_critic_go_on_from_the_first(run):
    """They learned next to nothing here."""
    first, second = (load_arrays(of.path("controller"))[0] for of in (run.at(1), run))
    assert first.keys() == second.keys() == {"parameters", "critic"}
    for name, array in first.items():
        np.testing.assert_allclose(second[name], array, atol=1e-4)
        assert np.ptp(array) > 0


