"""How many episodes are collected, and which."""

from pipeline.collect import collect
from pipeline.command import main
from tests.pipeline.conftest import TOY
from worldmodels.episodes import SUFFIX, EpisodeFolder, episode_path, length
from worldmodels.runs import episode_seeds

SHORT = 39          # the toy ends where it is won, or after 40 steps


def collected(folder, count, *more):
    main(collect, [*TOY, "--data", str(folder), "--collect.episodes", str(count), "--collect.max-steps", "40",
                   "--collect.min-steps", str(SHORT), *more])
    return folder / "toy" / "smoke" / "episodes"


def test_others_are_played_in_place_of_those_that_are_too_short(tmp_path, capsys):
    """As in the released code, whose 10,000 episodes are counted when the short ones have been dropped; with the next
    seeds, whatever was there before."""
    folder = collected(tmp_path / "at once", 30)
    assert len(EpisodeFolder(folder, SHORT).paths) == 30
    lengths = {path.name: length(path) for path in folder.glob(f"*{SUFFIX}")}
    assert 0 < sum(steps <= SHORT for steps in lengths.values()) == len(lengths) - 30
    assert lengths.keys() == {episode_path(folder, seed).name for seed in episode_seeds(0, 1, "collect")[:len(lengths)]}
    collected(tmp_path / "in two parts", 11)
    again = collected(tmp_path / "in two parts", 30)
    assert {path.name for path in again.glob(f"*{SUFFIX}")} == lengths.keys()
    capsys.readouterr()
    collected(tmp_path / "at once", 30)
    assert "30 episodes are there" in capsys.readouterr().err


def test_a_game_that_has_ended_for_good_cannot_be_played_on(fails, tmp_path):
    assert "--collect.ignore-end" in fails(collect, *TOY, "--data", tmp_path, "--collect.ignore-end", "True")
