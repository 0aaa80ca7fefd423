"""What docs/extending.md shows: somebody's own environment, from one file, through all six stages, and a writer."""

import re
import shutil

import pytest

from pipeline import __main__ as stages
from pipeline.command import main
from tests.documents import python_blocks
from tests.pipeline.conftest import ROOT, TOY, finish, lines, start
from worldmodels.files import read_json

CODE, USE, WRITER, CALL, MODEL = (block.code for block in python_blocks(ROOT / "docs" / "extending.md"))


@pytest.fixture(scope="module")
def lander(tmp_path_factory):
    """A folder that has the document's file and a smoke run of its task."""
    cwd = tmp_path_factory.mktemp("lander")
    (cwd / "lander.py").write_text(CODE)
    small = ["--collect.episodes", "3", "--collect.max-steps", "80", "--evaluate.random-episodes", "1",
             "--evaluate.episodes", "1", "--evaluate.gap-episodes", "1", "--workers", "1", "--device", "cpu"]
    code, out, err = finish(start("-m", "pipeline", "--task", "lander:TASK", "--preset", "smoke", *small, cwd=cwd))
    assert code == 0, err
    assert "lunar_lander (registered)" in out
    return cwd


def test_an_environment_of_ones_own_goes_through_all_stages(lander):
    run = lander / "data" / "lunar_lander" / "smoke"
    assert {path.stem for path in run.glob("checkpoints/*.safetensors")} == {"vision", "memory", "controller"}
    assert (run / "report" / "report.html").exists()


def test_its_agent_acts_on_the_environments_own_pictures(lander):
    program = USE.replace("quick", "smoke") + "print(picture.shape, int(choice))"
    code, out, err = finish(start("-c", program, cwd=lander))
    assert code == 0, err
    assert re.fullmatch(r"\(400, 600, 3\) [0-3]\n", out)


def test_its_dream_is_a_gymnasium_environment(lander):
    program = ("import gymnasium, lander\n"
               "env = gymnasium.make('worldmodels/lunar_landerDream-v0', run='smoke')\n"
               "env.reset(seed=0)\n"
               "print(env.action_space.shape, len(env.step(env.action_space.sample())))")
    assert finish(start("-c", program, cwd=lander))[:2] == (0, "(4,) 5\n")


def test_a_model_of_ones_own_is_an_environment(tmp_path):
    program = MODEL + ("many.reset(seed=0)\n"
                       "for _ in range(200):\n"
                       "    many.step(many.action_space.sample())\n"
                       "print(env.spec.max_episode_steps, env.reset(seed=0)[0] in env.observation_space)")
    code, out, err = finish(start("-c", program, cwd=tmp_path))
    assert (code, out) == (0, "200 True\n"), err


def test_a_run_names_its_task_and_imports_nothing(lander):
    """Without --task lander:TASK the run of a task that is not known here stays closed."""
    program = "import worldmodels; worldmodels.Agent.load('data/lunar_lander/smoke')"
    code, _, err = finish(start("-c", program, cwd=lander))
    assert code == 1 and "no task lunar_lander here" in err


def test_a_writer_of_ones_own_prints_and_stops(finished, tmp_path):
    """The training of M, whose loss is below any bound at its first row; where it is not stopped, all generations. The
    stages before have been finished."""
    shutil.copytree(finished("toy"), tmp_path / "data" / "toy" / "smoke")
    for path in (tmp_path / "data" / "toy" / "smoke" / "checkpoints").glob("[mc]*"):
        path.unlink()
    (tmp_path / "my_writers.py").write_text(WRITER.replace("< 1.0", "< 1e9"))
    command = ["-m", "pipeline", *TOY, "--metrics", "none", "my_writers:Progress"]
    code, out, err = finish(start(*command, cwd=tmp_path))
    assert code == 130 and re.fullmatch(r"M's loss is [\d.]+ at step 20: the same command goes on from here",
                                        lines(err)[-1])
    (tmp_path / "my_writers.py").write_text(WRITER.replace("< 1.0", "< -1e9"))
    code, out, err = finish(start("-c", CALL, cwd=tmp_path))
    assert code == 0, err
    assert re.findall(r"^generation (\d+): [-\d.]+$", out, re.MULTILINE) == ["1", "2"]


KINDS = {                       # and what is made with them
    "autoencoder": (["--vision.kind", "autoencoder"], ("vision", "memory", "controller")),
    "gru": (["--memory.kind", "gru"], ("memory", "controller")),
    "rssm": (["--memory.kind", "rssm"], ("memory", "controller")),
    "ensemble": (["--memory.kind", "ensemble", "--memory.members", "3", "--memory.member.kind", "rssm",
                  "--memory.member.stochastic-size", "8", "--memory.member.hidden-size", "16",
                  "--dream.pessimism", "0.5", "--dream.uncertainty-quantile", "0.99"], ("memory", "controller")),
    "mlp": (["--controller.kind", "mlp", "--controller.sees", "z"], ("controller",)),
    "least_squares": (["--learner.kind", "least_squares"], ("controller",))}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_goes_through_the_stages(kind, finished, tmp_path, capsys):
    """From the finished toy run, whose episodes it takes over, with what those stages made that know of no kind."""
    arguments, made_anew = KINDS[kind]
    folder = tmp_path / "toy" / "smoke"
    shutil.copytree(finished("toy"), folder)
    for path in folder.glob("checkpoints/*"):
        if path.name.startswith(made_anew):
            path.unlink()
    main(stages.pipeline, [*TOY, "--device", "cpu", "--data", str(tmp_path), *arguments])
    assert "controller from the dream" in capsys.readouterr().out
    infos = {name: read_json(folder / "checkpoints" / f"{name}.json") for name in made_anew}
    for flag, value in zip(arguments[::2], arguments[1::2]):
        section, *names = flag.removeprefix("--").replace("-", "_").split(".")
        found = infos[section if section in made_anew else "controller"][section]
        for name in names:
            found = found[name]
        assert str(found) == value
