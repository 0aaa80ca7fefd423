"""The tables of scores in docs/results.md and README.md, against the published files that they name."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from worldmodels.report.scores import read_scores
from worldmodels.report.statistics import half_width

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "data" / "published"
SCORE = re.compile(r"(-?\d+) ± (\d+)(?: \((-?\d+) to (-?\d+)\))?")


def section(page: str, heading: str) -> str:
    """What stands under a heading, up to the next one of its level."""
    text = (ROOT / page).read_text()
    level = "#" * (len(heading) - len(heading.lstrip("#")))
    start = text.index(f"\n{heading}\n")
    after = re.search(rf"^{level} ", text[start + len(heading) + 2:], re.M)
    return text[start:start + len(heading) + 2 + after.start()] if after else text[start:]


def row(text: str, first: str) -> list[str]:
    """The cells of the table's row that begins with this one."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def stored(path: str, world: str, controller: str) -> dict:
    scores = read_scores(PUBLISHED / path)
    found, = (s for s in scores if (s["world"], s["controller"]) == (world, controller))
    return found


def agrees(cell: str, score: dict):
    """A cell "mean ± std (low to high)", or without the interval, has a stored score's numbers."""
    mean, std, low, high = SCORE.search(cell.replace("*", "")).groups()
    assert (int(mean), int(std)) == (round(score["mean"]), round(score["std"])), cell
    if low is not None:
        # stored intervals are normal ones; Student's t, which is told, differs by less than 1 where episodes are many
        assert abs(int(low) - score["ci95"][0]) < 1.5 and abs(int(high) - score["ci95"][1]) < 1.5, cell


OURS = "controller from the dream"


def test_the_papers_methods_table():
    table, path = section("docs/results.md", "## The paper's method"), "take_cover/faithful/report/scores.json"
    _, game, dream = row(table, "`faithful`")
    agrees(game, stored(path, "real", OURS))
    agrees(dream, stored(path, "dream", OURS))
    agrees(row(table, "random (held), the released code's; 100 episodes")[1], stored(path, "real", "random (held)"))


def test_takecovers_table():
    table, path = section("docs/results.md", "## TakeCover, laptop"), "take_cover/laptop/round-5/report/scores.json"
    _, game, dream, skill5 = row(table, "0")
    agrees(game, stored(path, "real", OURS))
    agrees(dream, stored(path, "dream", OURS))
    agrees(skill5, stored(path, "real", f"{OURS}, skill 5"))
    for name, first in (("held", "random (held), the released code's; 100 episodes"),
                        ("mixed × 4", "random (mixed × 4), which collects first; 100 episodes")):
        agrees(row(table, first)[1], stored(path, "real", f"random ({name})"))


@pytest.mark.parametrize("number", range(1, 7))
def test_car_racings_rounds(number):
    _, _, dream, game = row(section("docs/results.md", "## CarRacing, laptop"), str(number))
    path = f"car_racing/laptop/{f'round-{number}/' if number > 1 else ''}report/scores.json"
    agrees(game, stored(path, "real", OURS))
    agrees(dream, stored(path, "dream", OURS))


def on_new_tracks(path: Path, drawing: str) -> dict:
    """The score on tracks that were kept for the end."""
    returns = np.array(json.loads(path.read_text())[drawing])
    mean, half = returns.mean(), half_width(returns)
    return {"mean": mean, "std": returns.std(ddof=1), "ci95": (mean - half, mean + half)}


TRAININGS = sorted((PUBLISHED / "car_racing" / "tests").glob("*.json"))


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: path.stem)
def test_car_racings_trainings(path):
    _, fast, official = row(section("docs/results.md", "## CarRacing, laptop"), f"seed {path.stem[-1]}")
    agrees(fast, on_new_tracks(path, "fast"))
    agrees(official, on_new_tracks(path, "official"))


FAMILY = {"GRU": "gru", "MDN-RNN": "mdn_rnn", "RSSM": "rssm", "RSSM, categorical": "rssm-categorical",
          "RSSM, 5 prior heads": "rssm-heads", "ensemble of 5 GRUs": "ensemble",
          "GRU on an autoencoder": "autoencoder-gru", "MDN-RNN and V jointly": "mdn_rnn-jointly",
          "RSSM and V jointly": "rssm-jointly"}


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("task", ["TakeCover", "CarRacing"])
def test_the_familys_tables(task, name):
    """Scores in game and dream, training by training, and the dream's speed."""
    folder = {"TakeCover": "take_cover", "CarRacing": "car_racing"}[task]
    entries = json.loads((PUBLISHED / folder / "compare" / "compare.json").read_text())["entries"]
    mine = [entry["scores"] for entry in entries if entry["name"] == FAMILY[name]]
    text = section("docs/results.md", "## The family, compared").split(f"**{task}**")[1]
    _, game, dream, *_ = row(text, name)
    for cell, world in ((game, 0), (dream, 1)):
        assert [int(n) for n in re.findall(r"-?\d+", cell)] == [round(scores[world]["mean"]) for scores in mine]


def test_the_readmes_table():
    table = section("README.md", "## Results")
    _, take_cover, linear = row(table, "**ours: linear controller, learned in the dream**")
    agrees(take_cover, stored("take_cover/laptop/round-5/report/scores.json", "real", OURS))
    assert SCORE.search(linear).group() in section("docs/results.md", "## CarRacing, laptop").replace("*", "")
    _, take_cover, _ = row(table, "**the paper's method**, by this program (`faithful`)")
    agrees(take_cover, stored("take_cover/faithful/report/scores.json", "real", OURS))
    _, take_cover, car_racing = row(table, "random actions: here")
    for cell, name in zip(take_cover.split(";"), ("held", "fresh")):
        agrees(cell, stored("take_cover/laptop/round-5/report/scores.json", "real", f"random ({name})"))
    agrees(car_racing, stored("car_racing/laptop/round-6/report/scores.json", "real", "random (paper)"))
    _, take_cover, car_racing = row(table, "**ours: small network, learned in the dream**")
    way = next(line for line in section("docs/results.md", "## Which way to act").splitlines() if "**actor**" in line)
    assert SCORE.search(take_cover).group().split(" (")[0] in way
    agrees(car_racing, on_new_tracks(PUBLISHED / "car_racing" / "tests" / "seed0.json", "fast"))


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130
