"""The presets `paper` and `released`, made, against the numbers of the paper and of the released code; and each fact of
docs/fidelity.md against the code that it names. What a number does is tested beside its code."""

import re
from pathlib import Path

import pytest

from pipeline.presets import PRESETS, Config
from worldmodels.agent import Agent, build_memory, build_vision
from worldmodels.commandline import leaves
from worldmodels.envs import TASKS
from worldmodels.runs import plain

ROOT = Path(__file__).parents[1]
TASK_NAMES = "car_racing", "take_cover"
FRAMES = {"car_racing": 10_000 * 1000, "take_cover": 3_080_900}         # the authors' V had 30,809 batches of 100


def agent_of(config: Config) -> Agent:
    info = plain({"vision": config.vision, "memory": config.memory})
    return Agent(TASKS[config.task], build_vision(info), build_memory(info, TASKS[config.task]))


def parameters(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(params=TASK_NAMES)
def paper(request) -> Config:
    return PRESETS[request.param]["paper"]()


def test_v_is_the_papers(paper):
    agent, v = agent_of(paper), paper.vision
    assert parameters(agent.vision) == {"car_racing": 4_348_547, "take_cover": 4_446_915}[paper.task]
    assert v.z_size == {"car_racing": 32, "take_cover": 64}[paper.task]
    assert (v.kl_floor, v.learning_rate, v.batch, v.final_anneal, v.clip_value) == (0.5, 1e-4, 100, 0, 0)
    assert v.steps * v.batch == FRAMES[paper.task]                      # one epoch
    assert v.initial_weights == "tensorflow"
    assert paper.memory.latent == "sample"


def test_m_is_the_papers(paper):
    """With heads beside the paper's that only read: they are not counted, and the LSTM does not learn by them."""
    agent, m = agent_of(paper), paper.memory
    heads = {"car_racing": (), "take_cover": ("done",)}[paper.task]
    read_along = 2 - len(heads)
    assert m.shaped_by == heads
    assert parameters(agent.memory) - read_along * (m.hidden_size + 1) == \
        {"car_racing": 422_368, "take_cover": 1_678_785}[paper.task]
    assert (m.mixtures, m.head_size, m.initial_weights) == (5, 0, "tensorflow")
    assert (m.learning_rate, m.clip_value, m.batch, m.final_anneal, m.scheduled_sampling) == (1e-3, 1.0, 100, 0, 0)
    assert (m.sequence, m.learning_rate_decay) == {"car_racing": (999, 1.0), "take_cover": (500, 0.99999)}[paper.task]
    epoch = FRAMES[paper.task] // (m.batch * {"car_racing": 1000, "take_cover": 500}[paper.task])
    assert m.steps == 20 * epoch
    if paper.task == "take_cover":
        assert (m.done_weight, m.done_positive_weight, m.death) == (1.0, 10.0, "threshold")
        assert m.restart_input and m.cell_feature
    assert not m.sees_current_frame


def test_the_dream_is_the_papers():
    dream = PRESETS["take_cover"]["paper"]().dream
    assert (dream.temperature, dream.start, dream.max_steps, dream.reward) == (1.15, "first", 2100, "alive")
    assert (dream.precision, dream.pessimism, dream.uncertainty_quantile, dream.enough) == ("float32", 0, 1, 0)


def test_c_and_its_search_are_the_papers(paper):
    agent, search = agent_of(paper), paper.learner
    assert agent.parameter_count(paper.controller) == {"car_racing": 867, "take_cover": 1088}[paper.task]
    assert paper.world == {"car_racing": "real", "take_cover": "dream"}[paper.task]
    assert (search.start, search.sigma, search.population, search.episodes) == ("previous_or_zero", 0.1, 64, 16)
    assert (search.eval_every, search.eval_episodes, search.same_episodes) == (25, 1024, "pairs")
    assert search.generations == 1800
    assert paper.evaluate.episodes == 100 and paper.rounds == 1


def test_the_episodes_are_the_papers(paper):
    c = paper.collect
    assert (c.episodes, c.repeat) == (10_000, 1)
    if paper.task == "car_racing":                                      # 1,000 frames are 999 steps
        assert (c.max_steps, c.min_steps, c.policy, c.ignore_end) == (999, 0, "paper", True)
    else:
        assert (c.max_steps, c.min_steps, c.policy, c.skill) == (2100, 100, "held", 4)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_the_released_code_trains_longer(task):
    """10 epochs of V; 40 (CarRacing) and 400 epochs of M; 1.25, and some 200 generations, in TakeCover."""
    paper, released = (PRESETS[task][name]() for name in ("paper", "released"))
    assert released.vision.steps == 10 * paper.vision.steps
    assert released.memory.steps == {"car_racing": 4000, "take_cover": 24_400}[task]
    assert released.dream.temperature == {"car_racing": 1.0, "take_cover": 1.25}[task]
    assert different(paper, released) <= {"preset", "vision.steps", "memory.steps", "dream.temperature",
                                          "learner.generations"}


@pytest.mark.parametrize("task", TASK_NAMES)
def test_the_faithful_preset_has_smaller_budgets_and_nothing_else(task):
    paper, faithful = (PRESETS[task][name]() for name in ("paper", "faithful"))
    budgets = {"generations", "population", "episodes", "eval_every", "eval_episodes"}
    searches = {f"{section}.learner.{name}" for section in ("sweep", "ablate") for name in budgets}
    assert different(paper, faithful) <= {"preset", "collect.episodes", "vision.steps", "learner.generations",
                                          "evaluate.episodes", "sweep.trainings", *searches}
    assert faithful.memory == paper.memory and faithful.learner.generations >= 50


def different(a: Config, b: Config) -> set[str]:
    """The settings in which they differ, by their dotted names."""
    one, other = dict(leaves(a)), dict(leaves(b))
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def facts() -> list[list[str]]:
    """The rows of the tables of docs/fidelity.md that begin with a number."""
    lines = (ROOT / "docs" / "fidelity.md").read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| \d+ \|", line)]


def test_every_fact_says_where_it_is_in_the_code():
    """Its last cell names files, each with a name in it: `presets.py: paper_take_cover`."""
    assert [int(row[0]) for row in facts()] == list(range(1, len(facts()) + 1)) and len(facts()) >= 19
    for number, *_, where in facts():
        found = re.findall(r"`([\w/.]+): ([\w.]+)`", where)
        assert found, f"fact {number} names no code"
        for path, name in found:
            assert re.search(rf"\b{name}\b", (ROOT / path).read_text()), f"fact {number}: no {name} in {path}"
