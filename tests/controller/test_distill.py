"""Distillation: a controller that does what another one does, whatever the other one is and sees."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.conftest import counted_episode, make_latents
from tests.controller.test_cem import World
from tests.controller.test_least_squares import Blank, Doubled, episodes
from worldmodels.agent import controller_spec
from worldmodels.controller import CONTROLLERS, LinearConfig, PolicySpec, Practice, Teacher, build, distill
from worldmodels.controller.actor import ActorConfig
from worldmodels.controller.cem import CEMConfig
from worldmodels.controller.distill import Distill, DistillConfig
from worldmodels.controller.mlp import MLPConfig
from worldmodels.envs import TASKS
from worldmodels.episodes import Episode
from worldmodels.memory import MDNRNN, MDNRNNConfig
from worldmodels.runs import Run, plain
from worldmodels.types import State, UserError

MLP, ACTOR = MLPConfig(hidden_size=8), ActorConfig(units=16, layers=1)
MAP = np.array([[2.0, 1.0], [-1.0, 0.5]], np.float32)           # invertible: another V's z is z MAP + SHIFT
SHIFT = np.array([0.5, -1.0], np.float32)


def agent_of(memory, task="toy"):
    agent = SimpleNamespace(task=TASKS[task], memory=memory)
    agent.policy_of = lambda spec: build(spec, agent)
    agent.parameter_count = lambda config: CONTROLLERS[config.kind].size(config, agent)
    return agent


def linear(*parameters, config=LinearConfig()):
    """Weights of z_0, then of z_1, then biases, each for all actions."""
    return PolicySpec(config, {"parameters": np.array([parameters], np.float32)})


def random_spec(config, agent, scale=0.5):
    """A policy of random parameters, larger than those that a fit begins with."""
    size = agent.parameter_count(config)
    return PolicySpec(config, {"parameters": np.random.default_rng(5).normal(0, scale, (1, size)).astype(np.float32)})


def practice(latents, teacher, seed=0):
    return Practice(None, lambda: latents, 1.0, seed, training=0, previous=None, teacher=lambda name: teacher)


def distilled(latents, teacher, run, agent=None, config=LinearConfig(), seed=0, **settings):
    """The student's spec, for an agent with the teacher's V and M or its own."""
    learner = Distill(DistillConfig(**settings))
    info = {"controller": config, "learner": learner.config}
    return learner.learn(agent or teacher.agent, practice(latents, teacher, seed), config, run, info)


def acts(spec, agent, features):
    policy = build(spec, agent)
    policy.reset([0])
    return policy(State(features, ()))


def fresh(count=500, size=2):
    """Features that no episode has."""
    return torch.randn(count, size, generator=torch.Generator().manual_seed(9))


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    """Forty episodes of normal z [T+1, 2]."""
    return make_latents(tmp_path_factory.mktemp("normal"), episodes(lambda z, a: z[:, 0]))


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """The same as another V has encoded them."""
    seen = [(mu @ MAP + SHIFT, episode) for mu, episode in episodes(lambda z, a: z[:, 0])]
    return make_latents(tmp_path_factory.mktemp("mapped"), seen)


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """Eight episodes of 3 to 17 steps, the longest first, z = (number, t) / 10."""
    return make_latents(tmp_path_factory.mktemp("longest_first"), [counted_episode(e, 17 - 2 * e) for e in range(8)])


# what it comes to

@pytest.mark.parametrize("config", (LinearConfig(), LinearConfig(sees="z")), ids=("all", "z"))
def test_a_linear_student_becomes_its_linear_teacher(latents, run, config):
    agent = agent_of(Blank())
    spec = linear(0.8, -1.2, 0.3)
    found = distilled(latents, Teacher(agent, spec, lambda: latents), run, config=config)
    np.testing.assert_allclose(found.arrays["parameters"], spec.arrays["parameters"], atol=0.01)
    torch.testing.assert_close(acts(found, agent, fresh()), acts(spec, agent, fresh()), atol=0.01, rtol=0)


def test_on_the_same_v_and_m_it_becomes_a_teacher_that_remembers(latents, run):
    """The teacher acts by what M made of the steps before, and the fit is as good on another walk."""
    agent = agent_of(MDNRNN(MDNRNNConfig(hidden_size=6), 2, 1))
    spec = random_spec(LinearConfig(), agent)
    found = distilled(latents, Teacher(agent, spec, lambda: latents), run, ridge=1e-7)
    state = agent.memory.initial(fresh(200))
    for t in range(5):
        state = agent.memory.observe(state, fresh(200)[:, :1].tanh(), fresh(200).roll(t, 0))
    wanted = acts(spec, agent, state.features)
    assert wanted.std() > 0.3
    torch.testing.assert_close(acts(found, agent, state.features), wanted, atol=0.05, rtol=0)


def test_it_is_stored_with_its_info(latents, run):
    agent = agent_of(Blank())
    found = distilled(latents, Teacher(agent, linear(1, 0, 0), lambda: latents), run)
    tensors, info = run.load("controller", "train_controller")
    stored = controller_spec(tensors, info)
    assert info["learner"] == plain(DistillConfig()) and stored.config == found.config
    assert stored.arrays.keys() == {"parameters"}
    assert np.array_equal(stored.arrays["parameters"], found.arrays["parameters"])


def test_a_teacher_of_another_v_is_carried_over(latents, mapped, run):
    """Its z is z MAP + SHIFT, so that its weights W are MAP W here, and its bias b is b + SHIFT W."""
    student, agent, weight = agent_of(Blank()), agent_of(Blank()), np.array([0.7, 0.4], np.float32)
    spec = linear(*weight, -0.2)
    found = distilled(latents, Teacher(agent, spec, lambda: mapped), run, student)
    np.testing.assert_allclose(found.arrays["parameters"][0], [*MAP @ weight, -0.2 + SHIFT @ weight], atol=0.02)
    z = fresh()
    wanted = acts(spec, agent, z @ torch.from_numpy(MAP) + torch.from_numpy(SHIFT))
    torch.testing.assert_close(acts(found, student, z), wanted, atol=0.02, rtol=0)


def test_a_teacher_of_another_m_is_carried_over(latents, run):
    """Its features are z and 2 z, the student's z alone, and the other way round."""
    small, large, five = agent_of(Blank()), agent_of(Doubled()), linear(0.5, 0.1, 0.2, -0.4, 0.3)
    both = lambda z: torch.cat([z, 2 * z], 1)
    found = distilled(latents, Teacher(large, five, lambda: latents), run, small)
    np.testing.assert_allclose(found.arrays["parameters"], [[0.9, -0.7, 0.3]], atol=0.01)
    back = distilled(latents, Teacher(small, found, lambda: latents), run, large)
    torch.testing.assert_close(acts(back, large, both(fresh())), acts(five, large, both(fresh())), atol=0.02, rtol=0)


@pytest.mark.parametrize("teaching, learning", ((LinearConfig(), MLP), (LinearConfig(), ACTOR), (MLP, LinearConfig()),
                                                (ACTOR, LinearConfig()), (ACTOR, MLP)), ids=lambda c: c.kind)
def test_any_vector_of_parameters_learns_from_any_other(latents, run, teaching, learning):
    """What is left is a small part of what the teacher does, as far as a linear controller can say it."""
    agent = agent_of(Blank())
    spec = linear(0.8, -1.2, 0.3) if teaching.kind == "linear" else random_spec(teaching, agent)
    found = distilled(latents, Teacher(agent, spec, lambda: latents), run, config=learning)
    assert found.config == learning
    wanted = acts(spec, agent, fresh())
    left = (acts(found, agent, fresh()) - wanted).square().mean()
    assert left < (0.25 if learning.kind == "linear" else 0.01) * wanted.var()


def episodes_of_cars(folder):
    return make_latents(folder, episodes(lambda z, a: z[:, 0], actions=3))


@pytest.mark.parametrize("config", (LinearConfig(), MLP), ids=lambda c: c.kind)
def test_a_clipped_brake_is_fitted_where_it_is_zero_and_where_it_is_not(run, config):
    agent, latents = agent_of(Blank(), "car_racing"), episodes_of_cars(run.root)
    spec = linear(0.5, 0.2, 0.6, -0.7, 0.3, -0.4, 0.1, -0.3, 0.1)
    found = distilled(latents, Teacher(agent, spec, lambda: latents), run, config=config)
    wanted, made = acts(spec, agent, fresh()), acts(found, agent, fresh())
    brakes = wanted[:, 2] > 0
    assert 0.3 < brakes.float().mean() < 0.8
    for rows in (brakes, ~brakes):
        assert (made - wanted)[rows].abs().mean(0).max() < 0.05
    assert (made[~brakes, 2] == 0).float().mean() > 0.8


@pytest.mark.parametrize("brake", (-2.0, 2.0))
def test_a_brake_that_is_never_or_always_used_is_fitted(run, brake):
    agent, latents = agent_of(Blank(), "car_racing"), episodes_of_cars(run.root)
    spec = linear(0.5, 0.2, 0.1, -0.7, 0.3, -0.1, 0.1, -0.3, brake)
    found = distilled(latents, Teacher(agent, spec, lambda: latents), run)
    torch.testing.assert_close(acts(found, agent, fresh()), acts(spec, agent, fresh()), atol=0.15, rtol=0)


def test_every_action_counts_by_its_share_of_the_box():
    """Steering goes from -1 to 1, gas from 0 to 1: to be as far in its range takes the same weights, whatever the ridge
    costs."""
    agent, features, steer = agent_of(Blank(), "car_racing"), fresh(), torch.tanh(2 * fresh()[:, :1])
    action = torch.cat([steer, (steer + 1) / 2, torch.zeros_like(steer)], 1)
    learner = Distill(DistillConfig(ridge=0.05))
    weights = learner.fit(agent, LinearConfig(), features, action, np.random.default_rng(0)).view(3, 3)
    torch.testing.assert_close(weights[:, 0], weights[:, 1], atol=1e-3, rtol=0)
    assert 0.5 < weights[0, 0] < 1.8


def test_a_ridge_shrinks(latents, run):
    agent = agent_of(Blank())
    teacher = Teacher(agent, linear(0.8, -1.2, 0.3), lambda: latents)
    sizes = [np.linalg.norm(distilled(latents, teacher, run, ridge=ridge).arrays["parameters"])
             for ridge in (0.0, 0.1, 1.0, 100.0)]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.05
    assert sizes[0] == pytest.approx(np.linalg.norm([0.8, -1.2, 0.3]), rel=0.01)


def test_what_has_no_parameters_is_refused(latents, run):
    teacher = Teacher(agent_of(Blank()), linear(1, 0, 0), lambda: latents)
    with pytest.raises(UserError, match="--controller.kind cem is no vector of parameters to fit"):
        distilled(latents, teacher, run, config=CEMConfig())
    assert not run.path("controller").exists()


# what it learns from

class Recorder:
    """A policy with a life cycle, which writes down what it sees: it acts number + 10 t, where z = (number, t) / 10 and
    t is how often it has acted since it was reset."""

    def __init__(self):
        self.seeds, self.seen = [], []

    def reset(self, seeds):
        self.seeds.append(list(seeds))
        self.seen.append([])
        self.t = 0

    def __call__(self, state):
        assert len(state.features) == len(self.seeds[-1])
        self.seen[-1].append(state.features)
        action = 10 * state.features[:, :1] + 10 * self.t
        self.t += 1
        return action


def watched(counted, monkeypatch, batch=3, seed=0, student=None, **settings):
    """The recorder, and what is learnt from: features [N, 2] and actions [N, 1]."""
    monkeypatch.setattr(distill, "EPISODES", batch)
    recorder = Recorder()
    teacher = Teacher(SimpleNamespace(memory=Blank(), policy_of=lambda spec: recorder), linear(0, 0, 0),
                      lambda: counted)
    learner = Distill(DistillConfig(**settings))
    return recorder, *learner.examples(student or agent_of(Blank()), counted, teacher, seed)


def test_a_policy_with_a_life_cycle_teaches(counted, monkeypatch):
    """It is reset for each batch of episodes, and sees their states in the order of time."""
    recorder, features, action = watched(counted, monkeypatch)
    assert sorted(map(len, recorder.seeds)) == [2, 3, 3]
    numbers = []
    for seeds, seen in zip(recorder.seeds, recorder.seen):
        assert seeds == list(range(len(seeds)))
        times = torch.stack(seen)[:, :, 1]                                              # [T, E], 0 where it has ended
        later = times > 0.05
        assert later.sum(0).max() == len(seen) - 1
        wanted = (torch.arange(len(seen))[:, None] / 10).expand_as(times)
        torch.testing.assert_close(times[later], wanted[later], atol=1e-3, rtol=0)
        numbers += (10 * seen[0][:, 0]).round().int().tolist()
    assert sorted(numbers) == list(range(8))
    steps = sum(17 - 2 * e for e in range(8))
    assert len(features) == len(action) == steps


def test_each_action_is_that_of_the_state_beside_it(counted, monkeypatch):
    """Number and time of the student's features are those in the teacher's action."""
    _, features, action = watched(counted, monkeypatch)
    named = 10 * features[:, :1] + 100 * features[:, 1:]
    torch.testing.assert_close(action, named, atol=0.2, rtol=0)             # half precision
    assert len(named.round().unique()) == len(named)


def test_the_student_sees_them_by_its_own_m(counted, monkeypatch):
    _, features, action = watched(counted, monkeypatch, student=agent_of(Doubled()))
    torch.testing.assert_close(action, 5 * features[:, 2:3] + 50 * features[:, 3:], atol=0.2, rtol=0)


@pytest.mark.parametrize("count", (1, 3, 8, 500))
def test_the_last_episodes_teach(counted, monkeypatch, count):
    _, features, _ = watched(counted, monkeypatch, episodes=count)
    numbers = set((10 * features[:, 0]).round().int().tolist())
    assert numbers == set(range(8)[-count:])


def test_no_more_steps_than_a_limit_are_fitted(counted, monkeypatch):
    """They are chosen from everywhere, by the seed."""
    monkeypatch.setattr(distill, "STEPS", 30)
    (_, features, action), (_, again, _), (_, other, _) = (watched(counted, monkeypatch, seed=s) for s in (1, 1, 2))
    assert len(features) == len(action) == 30 and len(features.unique(dim=0)) == 30
    assert torch.equal(features, again) and not torch.equal(features, other)
    assert len((10 * features[:, 0]).round().unique()) >= 5
    torch.testing.assert_close(action, 10 * features[:, :1] + 100 * features[:, 1:], atol=0.2, rtol=0)


def test_where_v_is_the_same_both_see_the_same_draw_of_z(tmp_path, monkeypatch):
    """Of latents that are wide: the teacher's action names its z, and the student's z is that."""
    wide = make_latents(tmp_path, [counted_episode(e, 17 - 2 * e) for e in range(8)], log_var=0.0)
    agent = agent_of(Blank())
    teacher = Teacher(agent, linear(0.2, 0.0, 0.0), lambda: wide)
    features, action = Distill(DistillConfig()).examples(agent, wide, teacher, 0)
    torch.testing.assert_close(action, torch.tanh(0.2 * features[:, :1]))
    assert features[:, 0].std() > 0.8                                       # and it was drawn


def test_a_planner_teaches_a_linear_controller(tmp_path, run):
    """It goes to where it pays, z = 2, from both sides, and so does its pupil."""
    rng, zeros = np.random.default_rng(0), np.zeros(30, np.float32)
    latents = make_latents(tmp_path, [(rng.uniform(-2, 6, (31, 1)).astype(np.float32),
                                       Episode(None, zeros[:, None], zeros, zeros > 0, zeros > 0)) for _ in range(6)])
    agent = agent_of(World(reward=lambda z, a, luck: -(z - 2).square()))
    planner = PolicySpec(CEMConfig(horizon=3, candidates=64), {"parameters": np.zeros((1, 0))})
    found = distilled(latents, Teacher(agent, planner, lambda: latents), run)
    z = torch.tensor([[-2.0], [1.5], [2.5], [6.0]])
    for _ in range(12):
        z = z + acts(found, agent, z)
    assert (z - 2).abs().max() < 0.5


# chance

@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Five episodes, whose latents have a standard deviation of 0.37."""
    return make_latents(tmp_path_factory.mktemp("few"), episodes(lambda z, a: z[:, 0], count=5), log_var=-2.0)


@pytest.mark.parametrize("config", (LinearConfig(), MLP, ACTOR), ids=lambda c: c.kind)
def test_it_is_a_function_of_the_run_its_round_and_its_seed(few, tmp_path, config):
    teacher = Teacher(agent_of(Blank()), linear(0.8, -1.2, 0.3), lambda: few)
    first, again, other, later = (
        distilled(few, teacher, Run(tmp_path / str(number), round), config=config, seed=seed).arrays["parameters"]
        for number, (seed, round) in enumerate(((3, 1), (3, 1), (4, 1), (3, 2))))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other) and not np.array_equal(first, later)


def test_another_training_has_other_chance(few, run):
    agent, found = agent_of(Blank()), []
    given = practice(few, Teacher(agent, linear(0.8, -1.2, 0.3), lambda: few))
    for training in (0, 0, 1):
        spec = Distill(DistillConfig()).fitted(agent, given._replace(training=training), MLP, run)
        found.append(spec.arrays["parameters"])
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


def test_it_asks_for_the_teacher_that_the_settings_name(latents, run):
    agent, asked = agent_of(Blank()), []

    def teacher(name):
        asked.append(name)
        return Teacher(agent, linear(1, 0, 0), lambda: latents)

    for name in ("", "another"):
        learner = Distill(replace(DistillConfig(), teacher=name))
        learner.fitted(agent, practice(latents, None)._replace(teacher=teacher), LinearConfig(), run)
    assert asked == ["", "another"]
