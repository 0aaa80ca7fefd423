"""The command `worldmodels`."""

import json
import shutil
import sys

import pytest

from pipeline import __main__ as stages
from pipeline import cli
from tests.pipeline.conftest import finish, lines, start
from tests.pipeline.test_command_line import ALL
from worldmodels import __version__, runs
from worldmodels.files import read_json, write_json
from worldmodels.report.scores import read_scores, trained_name


@pytest.fixture
def worldmodels(monkeypatch, capsys):
    """worldmodels(*arguments): exit code, stdout and the lines of stderr."""
    def call(*arguments) -> tuple[int, str, list[str]]:
        monkeypatch.setattr(sys, "argv", ["worldmodels", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        return code, said.out, lines(said.err)
    return call


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """Where no run is but those of --data."""
    monkeypatch.setattr(runs, "DATA", tmp_path / "nothing")
    monkeypatch.setattr(runs, "PUBLISHED", tmp_path / "published")


def test_help_fits_a_screen_and_names_every_command(worldmodels):
    code, said, _ = worldmodels("--help")
    assert code == 0 and worldmodels() == (0, said, []) and __version__ in said
    assert len(said.splitlines()) <= 35 and max(map(len, said.splitlines())) <= 110
    named = {line.split()[0] for line in said.splitlines() if line.startswith("  ")}
    assert named >= {*cli.COMMANDS, *cli.STAGES, *cli.BESIDE}
    assert worldmodels("--version") == (0, f"worldmodels {__version__}\n", [])


def test_help_and_list_import_no_torch(tmp_path):
    program = ("import sys; from pipeline import cli; sys.argv = ['worldmodels', '{}']; cli.main(); "
               "assert 'torch' not in sys.modules")
    for command in ("--help", "list"):
        code, _, err = finish(start("-c", program.format(command), cwd=tmp_path))
        assert code == 0, err


@pytest.mark.parametrize("stage", ALL, ids=lambda stage: stage.__name__)
def test_every_stage_is_a_command(stage, worldmodels):
    name = "run" if stage is stages.pipeline else stage.__name__
    code, said, _ = worldmodels(name.replace("_", "-"), "--help")
    assert code == 0 and said.startswith(f"usage: worldmodels {name.replace('_', '-')} ")
    assert " ".join(stage.__doc__.split()[:5]) in " ".join(said.split())
    assert worldmodels(name, "--help") == (0, said, [])


def test_a_misspelled_command_is_answered_by_the_one_that_is_meant(worldmodels):
    assert worldmodels("train_vison") == (
        2, "", ["error: no command train-vison: did you mean train-vision? (worldmodels --help lists them)"])
    assert worldmodels("xyz") == (2, "", ["error: no command xyz (worldmodels --help lists them)"])


def test_an_option_that_a_command_has_not_is_one_line(worldmodels):
    code, _, said = worldmodels("list", "--run", "smoke")
    assert code == 2 and len(said) == 1 and "--run" in said[0] and "worldmodels list --help" in said[0]


def test_runs_are_listed_with_their_score_in_the_game(worldmodels, copied, alone, tmp_path):
    folder, _ = copied
    shutil.copytree(folder, tmp_path / "published" / "toy" / "given")
    (tmp_path / "toy" / "broken").mkdir()
    (tmp_path / "toy" / "broken" / "config.json").write_text("{")
    code, said, _ = worldmodels("list", "--data", tmp_path)
    _, broken, smoke, given = said.splitlines()
    own, = [s for s in read_scores(folder / "report" / "scores.json")
            if (s["world"], s["controller"]) == ("real", trained_name("dream"))]
    assert code == 0 and smoke.startswith("toy/smoke") and given.startswith("toy/given")
    assert smoke.split()[1:5] == ["smoke", "1", "of", "1"] and f"{own['mean']:.0f} ± {own['std']:.0f}" in smoke
    assert given.endswith("published") and smoke.endswith(str(tmp_path))
    assert "broken" in broken and "cannot be read" in broken


def test_info_tells_rounds_scores_and_settings_that_are_not_the_presets(worldmodels, copied, alone, tmp_path):
    folder, _ = copied
    code, said, _ = worldmodels("info", "smoke", "--data", tmp_path)
    assert code == 0 and said.startswith(f"toy/smoke: {folder}")
    assert "4 episodes, 4 latents, vision, memory, controller, scores" in said and trained_name("dream") in said
    assert said.endswith("--device cpu --workers 2\n")
    stored = json.loads((folder / "config.json").read_text())
    stored["config"]["vision"]["steps"] += 1
    write_json(folder / "config.json", stored)
    steps = stored["config"]["vision"]["steps"]
    assert f" --vision.steps {steps}" in worldmodels("info", folder)[1].splitlines()[-1]


def test_resume_goes_on_with_the_settings_that_the_run_has(worldmodels, copied, alone, tmp_path):
    folder, _ = copied
    for path in (folder / "checkpoints").glob("controller.*"):
        path.unlink()
    before = read_json(folder / "config.json")["config"]
    code, said, err = worldmodels("resume", "toy/smoke", "--data", tmp_path, "--workers", "1")
    assert code == 0 and (folder / "checkpoints" / "controller.safetensors").exists(), err
    assert "Toy, run" in said
    assert read_json(folder / "config.json")["config"] == before | {"workers": 1}


def test_what_cannot_be_resumed_is_one_line_and_stays_as_it_is(worldmodels, copied, alone, tmp_path):
    folder, _ = copied
    published = tmp_path / "published" / "toy" / "given"
    shutil.copytree(folder, published)
    shutil.copytree(folder, tmp_path / "take_cover" / "smoke")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for name, answer in (("given", f"toy/given is published: copy {published} to data/toy/given"),
                         ("smoke", "there are several runs smoke: take_cover/smoke, toy/smoke"),
                         ("smok", "no run smok; there are: take_cover/smoke, toy/given, toy/smoke")):
        code, _, said = worldmodels("resume", name, "--data", tmp_path)
        assert code == 2 and len(said) == 1 and answer in said[0]
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_one_s_own_run_hides_a_published_one_of_its_name(worldmodels, copied, alone, tmp_path):
    folder, _ = copied
    shutil.copytree(folder, tmp_path / "published" / "toy" / "smoke")
    assert worldmodels("info", "toy/smoke", "--data", tmp_path)[1].startswith(f"toy/smoke: {folder}")
