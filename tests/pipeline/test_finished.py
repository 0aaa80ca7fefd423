"""Opening a finished run, as the notebooks do."""

import json
import shutil

import numpy as np
import pytest

from pipeline.finished import compared
from pipeline.finished import finished as opened
from worldmodels import runs
from worldmodels.types import UserError


@pytest.fixture
def smoke(finished, tmp_path, monkeypatch):
    """The data folder, in which a smoke run of the toy is."""
    shutil.copytree(finished("toy"), tmp_path / "toy" / "smoke")
    monkeypatch.setattr(runs, "DATA", tmp_path)
    monkeypatch.setattr(runs, "PUBLISHED", tmp_path / "published")
    return tmp_path / "toy" / "smoke"


def test_a_finished_run_is_opened(smoke):
    found = opened("toy", smoke)
    assert found.run.root == smoke and found.config.preset == "smoke" and found.agent.task.name == "toy"
    parameters = found.controller.arrays["parameters"].shape[1]
    assert found.means.arrays["parameters"].shape == (2, parameters) and found.generations.tolist() == [0, 2]
    played, = found.watch([7])
    assert len(played.seen) == len(played.action) + 1 and np.array_equal(played.seen, played.frames)
    with found.executor() as workers:
        games, dreams = found.game(workers)(found.means, range(3)), found.dream(workers, 0.5)(found.means, range(3))
    assert games.shape == dreams.shape == (2, 3) and (games >= 0).all() and np.isfinite(dreams).all()


def test_the_environment_may_name_it(smoke, monkeypatch):
    monkeypatch.setenv("WORLDMODELS_RUN", "smoke")
    assert opened("toy").run.root == smoke


def test_a_smoke_run_that_was_interrupted_is_finished(smoke):
    for path in (smoke / "checkpoints").glob("controller.*"):
        path.unlink()
    assert len(opened("toy", "smoke").generations) == 2 and (smoke / "checkpoints" / "controller.json").exists()


def test_a_run_of_another_game_is_not_opened(smoke):
    with pytest.raises(UserError, match="is a run of toy, not of take_cover"):
        opened("take_cover", smoke)


def test_another_run_is_not_made(smoke):
    with pytest.raises(UserError, match="no run mine of toy; there are: smoke"):
        opened("toy", "mine")


def test_a_comparison_is_that_of_the_run_or_else_the_published_one(smoke):
    published = smoke.parents[1] / "published" / "toy" / "compare"
    for folder, seconds in ((smoke / "report", 1), (published, 90)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "compare.json").write_text(json.dumps({"task": "toy", "seconds": seconds, "entries": []}))
    assert compared("toy", smoke) == compared("toy", "smoke") == ([], [], 1, smoke / "report")
    assert compared("toy") == ([], [], 90, published)


def test_a_run_without_a_comparison_is_one_line(smoke):
    with pytest.raises(UserError, match="report has no comparison: `python -m pipeline.compare` makes one"):
        compared("toy", smoke)
