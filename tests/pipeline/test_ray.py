"""Every stage on Ray: the same run to the last bit; and trainings at once: the same controllers."""

import shutil

import numpy as np
import pytest

from pipeline.command import main
from pipeline.sweep_temperature import sweep_temperature
from tests.pipeline.conftest import finish, lines, start
from worldmodels.files import load_arrays
from worldmodels.report.scores import read_scores

pytest.importorskip("ray")


def contents(path):
    arrays, info = load_arrays(path)
    return {name: (array.dtype, array.tobytes()) for name, array in arrays.items()}, info


def test_all_stages_make_the_same_run_on_ray(finished, tmp_path):
    """Weights, scores, and each episode's file."""
    local = finished("toy")
    arguments = ["--task", "toy", "--preset", "smoke", "--data", "runs", "--device", "cpu", "--executor", "ray"]
    code, _, err = finish(start("-m", "pipeline", *arguments, "--workers", "2", cwd=tmp_path))
    assert code == 0, err
    on_ray = tmp_path / "runs" / "toy" / "smoke"
    for name in ("vision", "memory", "controller"):
        assert contents(on_ray / "checkpoints" / f"{name}.safetensors") == \
            contents(local / "checkpoints" / f"{name}.safetensors")
    returns = lambda folder: [score["returns"] for score in read_scores(folder / "report" / "scores.json")]
    assert returns(on_ray) == returns(local)
    names = lambda folder: sorted(path.name for path in (folder / "episodes").iterdir())
    assert names(on_ray) == names(local)


def test_trainings_at_once_make_the_same_controllers(copied):
    folder, arguments = copied
    arguments = [*arguments, "--sweep.temperatures", "0.5", "1.3"]
    main(sweep_temperature, arguments)
    after = {path: contents(path) for path in folder.glob("temperature/*/checkpoints/controller.safetensors")}
    before = read_scores(folder / "report" / "temperature.json")
    shutil.rmtree(folder / "temperature")
    main(sweep_temperature, [*arguments, "--trainings-at-once", "2", "--executor", "local", "--workers", "2"])
    assert len(after) == 2 and {path: contents(path) for path in after} == after
    for one, other in zip(before, read_scores(folder / "report" / "temperature.json"), strict=True):
        assert np.array_equal(one["returns"], other["returns"])


def test_a_cluster_that_does_not_answer_ends_in_one_line(tmp_path):
    code, _, err = finish(start("-m", "pipeline.collect", "--task", "toy", "--preset", "smoke", "--executor", "ray",
                                "--address", "127.0.0.1:1", cwd=tmp_path))
    assert code == 2
    assert [line for line in lines(err) if "error: --address 127.0.0.1:1: no Ray cluster answers there" in line]
