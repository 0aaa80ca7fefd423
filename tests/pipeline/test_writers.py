"""--metrics: the writers of a whole run, which may stop it, and which a stored config never names."""

import json

import numpy as np
import pytest

from pipeline import __main__ as stages
from pipeline.command import main
from tests.pipeline.conftest import TOY, lines
from tests.pipeline.test_command_line import nothing, settings
from tests.writers import Recorder, rows_of
from worldmodels.files import load_arrays, read_json, write_json
from worldmodels.metrics import read_metrics


def test_a_stopped_run_is_resumed_to_that_of_an_undisturbed_one_and_every_row_is_told_once(
        finished, tmp_path, monkeypatch, capsys):
    """It stops at the first row of M, the last of its training; "none" beside a writer makes no file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stop_here").touch()
    command = [*TOY, "--device", "cpu", "--metrics", "none", "tests.writers:ToFile"]
    with pytest.raises(SystemExit) as stop:
        main(stages.pipeline, command)
    assert stop.value.code == 130
    assert lines(capsys.readouterr().err)[-1] == "enough of M: the same command goes on from here"
    folder = tmp_path / "data" / "toy" / "smoke"
    assert not (folder / "checkpoints" / "memory.safetensors").exists()
    (tmp_path / "stop_here").unlink()
    main(stages.pipeline, command)
    for name in ("vision", "memory", "controller"):
        (found, info), (wanted, expected) = (load_arrays(run / "checkpoints" / f"{name}.safetensors")
                                             for run in (folder, finished("toy")))
        assert info == expected and all(np.array_equal(found[key], wanted[key]) for key in wanted)
    told = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert told == read_metrics(folder) and {row["stage"] for row in told} == {
        "collect", "vision", "encode", "memory", "controller", "evaluate"}
    assert not (folder / "tensorboard").exists()


def test_a_stop_at_the_scores_leaves_a_report_and_the_next_command_has_nothing_to_do(copied, capsys):
    folder, arguments = copied
    (folder / "report" / "made_with.json").unlink()
    recorder = Recorder([("write", 1)])
    with pytest.raises(SystemExit):
        main(stages.evaluate, arguments, [recorder])
    assert rows_of(recorder, "evaluate") == read_metrics(folder, "evaluate")
    capsys.readouterr()
    main(stages.evaluate, arguments)
    assert "evaluate: the report is there" in capsys.readouterr().err


@pytest.mark.parametrize("name, why", (
    ("tensorbord", "tensorboard, wandb, none"), ("no_such_module:Writer", "No module"),
    ("tests.writers:Nothing", "Nothing"), ("tests.writers:NUMBER", "int")))
def test_a_writer_that_is_not_there_is_named_and_nothing_is_made(name, why, fails, tmp_path):
    said = fails(nothing, *TOY, "--data", tmp_path, "--metrics", "none", name)
    assert f"--metrics {name}: " in said and why in said and not list(tmp_path.iterdir())


def test_a_stored_config_names_no_writer(tmp_path, fails):
    """Neither the one that was typed nor one that somebody wrote into it: its module is not imported."""
    assert settings(*TOY, "--data", tmp_path, "--metrics", "none", "tests.writers:ToFile").metrics == (
        "none", "tests.writers:ToFile")
    path = tmp_path / "toy" / "smoke" / "config.json"
    stored = read_json(path)
    assert "metrics" not in stored["config"]
    stored["config"]["metrics"] = ["no_such_module:Writer"]
    write_json(path, stored)
    assert settings("--task", "toy", "--run", "smoke", "--data", tmp_path).metrics == ("tensorboard",)
