"""PPO: its equations by hand, what it learns in toy worlds whose best actions are known, in dreams and in a game, and
that it goes on where it was interrupted."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.controller.test_actor_critic import IDENTITY, recorded, states_of, walk
from tests.controller.test_cem import World
from worldmodels import training
from worldmodels.controller import LinearConfig, Practice, build
from worldmodels.controller.actor import ActorConfig, NoisyActor, log_density
from worldmodels.controller.learner import OnPolicyEpisode
from worldmodels.controller.ppo import PPO, Experience, PPOConfig, PPOLearner
from worldmodels.envs import TASKS
from worldmodels.metrics import read_metrics
from worldmodels.runs import Run
from worldmodels.types import UserError

ACTOR = ActorConfig(units=8, layers=1)
QUICK = {"steps": 320, "batch": 32, "learning_rate": 0.01, "horizon": 5, "discount": 0.9, "parts": 4, "kl": 0.05,
         "temperature": 1.0}


def agent_of(memory):
    return SimpleNamespace(task=TASKS["toy"], memory=memory)


def begun(memory, actor=ACTOR, **settings):
    model = PPO(PPOConfig(**settings), actor, agent_of(memory))
    model.begin(states_of(memory, 5), np.random.default_rng(0))
    return model


def by_hand(**settings):
    """A model in which the value of x is x."""
    model = begun(World(), ActorConfig(units=1, layers=1, critic="value"), discount=0.8, trace=0.5, **settings)
    model.critic.data = IDENTITY.clone()
    return model


def column(*values):
    return torch.tensor(values)[:, None]


# what is imagined

def test_a_reward_below_zero_counts_as_often_as_it_is_told():
    memory = World(lambda z, a, luck: z)
    rewards = [begun(memory, horizon=6, penalty_scale=scale).imagined(
        states_of(memory, 9), 1.0, torch.Generator().manual_seed(0)).reward for scale in (1.0, 30.0)]
    assert (rewards[0] < 0).any() and (rewards[0] > 0).any()
    torch.testing.assert_close(rewards[1], torch.where(rewards[0] < 0, 30 * rewards[0], rewards[0]))


# what steps are worth

def test_advantages_and_returns_by_hand():
    """The first rollout: delta_1 = 2 + 0.8 * 0.75 * 6 - 4 = 1.6; delta_0 = 1 + 0.8 * 0.5 * 4 - 10 = -7.4; A_0 = -7.4 +
    0.8 * 0.5 * 0.5 * 1.6 = -7.08. The second is over after its first step, 3 - 5 = -2: what follows does not count."""
    model = by_hand()
    x = torch.tensor([[10.0, 5.0], [4.0, 99.0], [6.0, 99.0]])[..., None]
    reward, p_done = torch.tensor([[1.0, 3.0], [2.0, 50.0]]), torch.tensor([[0.5, 1.0], [0.25, 0.0]])
    u, there = torch.tensor([[0.3, -0.2], [0.1, 0.0]])[..., None], torch.tensor([[True, True], [True, False]])
    steps = model.judged(Experience(x, u, reward, p_done, there))
    advantage = torch.tensor([-7.08, -2.0, 1.6])
    torch.testing.assert_close(steps.returns, advantage + torch.tensor([10.0, 5.0, 4.0]))
    torch.testing.assert_close(steps.advantage, (advantage - advantage.mean()) / advantage.std(correction=0))
    torch.testing.assert_close(steps.x, column(10.0, 5.0, 4.0))
    mean, std = model._actor(steps.x)
    torch.testing.assert_close(steps.log_density, log_density(column(0.3, -0.2, 0.1), mean, std))


def test_an_episode_that_is_cut_is_worth_what_the_critic_says_of_its_last_state():
    """0.8 * 7 = 5.6 more than one that ends there; and what pads it is not seen."""
    model = by_hand()
    model.mean, model.std = torch.zeros(1), torch.ones(1)
    one = lambda steps, end: OnPolicyEpisode(np.full((steps + 1, 1), 7, np.float32), np.zeros((steps, 1), np.float32),
                                     np.ones(steps, np.float32), end)
    experience = model.played([one(1, False), one(3, True), one(1, True)])
    assert experience.there.sum(0).tolist() == [1, 3, 1] and experience.p_done.sum(0).tolist() == [0, 1, 1]
    first, _, ended, *_ = model.judged(experience).returns.tolist()
    assert first == pytest.approx(1 + 5.6) and ended == pytest.approx(1)


@pytest.mark.parametrize("moved, advantage, clipped", ((0.0, 1.0, False), (0.5, 1.0, True), (0.5, -1.0, False),
                                                       (-0.5, -1.0, True)))
def test_the_loss_follows_the_ratio_only_as_far_as_it_is_trusted(moved, advantage, clipped):
    """`before` is so much less than the log density of now."""
    model = by_hand(entropy=0.0, clip_ratio=0.2)
    x, u = column(2.0), column(0.4)
    density = log_density(u, *model._actor(x)).detach()
    loss, metrics = model.loss((x, u, density - moved, torch.tensor([advantage]), torch.tensor([5.0])),
                               torch.Generator().manual_seed(0))
    ratio = np.exp(moved)
    expected = min(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)
    assert metrics["critic"].item() == pytest.approx(0.5 * (2 - 5)**2)
    assert (loss - metrics["critic"]).item() == pytest.approx(-expected, rel=1e-5)
    actor, = torch.autograd.grad(loss - 0 * metrics["critic"], model.actor)
    assert (actor.abs().max() == 0) == clipped


@pytest.mark.parametrize("moved, taken, steps, scale", (
    (0.0, 0, 3, 1), (0.0, 0, 4, 1.5), (0.0, 0, 13, 1.5**3), (0.14, 0, 4, 1), (0.3, 0, 4, 1 / 1.5),
    (0.14, 27, 1, 1 / 1.5)))                    # at the end less is wanted
def test_the_rate_follows_how_far_an_iteration_has_moved_the_actor(moved, taken, steps, scale):
    """A density that is `moved` nats higher is of an actor moved^2 / 2 nats away: 0.01 for 0.14."""
    model = by_hand(kl=0.01, passes=2, parts=2, steps=32, final_anneal=1.0)
    model.taken += taken
    x, u = column(2.0), column(0.4)
    density = log_density(u, *model._actor(x)).detach()
    for _ in range(steps):
        model.loss((x, u, density - moved, torch.ones(1), torch.ones(1)), torch.Generator().manual_seed(0))
    assert model.rate_scale.item() == pytest.approx(scale, rel=1e-5)


# what is learnt

@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("recorded"))


def learnt(memory, latents, run, controller=ACTOR, on_policy=None, seed=0, **settings):
    practice = Practice(None, lambda: latents, 1.0, seed, training=0, previous=None, on_policy=on_policy)
    return PPOLearner(PPOConfig(**QUICK | settings)).learn(agent_of(memory), practice, controller, run,
                                                           {"controller": controller})


@pytest.mark.parametrize("critic", ("value", "two_hot"))
def test_in_a_dream_it_goes_where_it_pays_and_stays(run, latents, critic):
    memory = World(lambda z, a, luck: -(z - 2).square())
    spec = learnt(memory, latents, run, ActorConfig(units=16, layers=1, critic=critic))
    assert (walk(memory, spec, [-2.0, 1.5, 2.5, 6.0])[-3:] - 2).abs().max() < 0.8
    assert read_metrics(run.folder, "behaviour")[-1]["step"] == QUICK["steps"]


def test_where_every_step_pays_the_same_it_lives_long(run, latents):
    memory = World(lambda z, a, luck: torch.ones_like(z), lambda z: torch.sigmoid(z))
    assert (walk(memory, learnt(memory, latents, run), [-1.0, 0.0, 2.0]).diff(dim=0) < -0.3).all()


class Line:
    """A game on a line, from z = `begin` on: a step of tanh(u), which pays as `worth` says; it ends beyond 7."""

    def __init__(self, memory, worth, limit=None):
        self.memory, self.worth, self.limit, self.played = memory, worth, limit, 0

    def __call__(self, spec, seeds):
        if self.played == self.limit:
            raise KeyboardInterrupt
        self.played += 1
        return [self.episode(spec, seed) for seed in seeds]

    def episode(self, spec, seed):
        rng, actor = np.random.default_rng(seed), NoisyActor(build(spec, agent_of(self.memory)))
        z, features, us, rewards = rng.uniform(-2, 6), [], [], []
        actor.reset([seed])
        while len(us) < 12 and not (us and z > 7):
            state = self.memory.initial(torch.tensor([[z]], dtype=torch.float32))
            features.append(state.features[0].numpy())
            us.append(actor(state)[0].detach().numpy())
            z += np.tanh(us[-1][0])
            rewards.append(self.worth(z))
        features.append(self.memory.initial(torch.tensor([[z]], dtype=torch.float32)).features[0].numpy())
        return OnPolicyEpisode(np.stack(features), np.stack(us), np.array(rewards, np.float32), bool(z > 7))


def test_in_a_game_it_learns_from_whole_episodes_alone(run, latents):
    """M says that it pays to go up; the game, that it pays to be at 2."""
    memory = World(lambda z, a, luck: z)
    spec = learnt(memory, latents, run, ActorConfig(units=16, layers=1), Line(memory, lambda z: -(z - 2)**2),
                  steps=640)
    assert (walk(memory, spec, [-2.0, 1.5, 2.5, 6.0])[-3:] - 2).abs().max() < 0.8


@pytest.mark.parametrize("world", ("dream", "game"))
def test_a_resumed_training_ends_bit_for_bit_where_an_uninterrupted_one_does(tmp_path, latents, monkeypatch, world):
    """It goes on from the end of the last whole iteration."""
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    memory, settings = World(lambda z, a, luck: luck - z.square()), {"steps": 80, "batch": 4}
    played = {}

    def trained(run, limit=None):
        if world == "game":
            played[run] = Line(memory, lambda z: -z**2, limit)
            return learnt(memory, latents, run, on_policy=played[run], **settings)
        loss, count = PPO.loss, []

        def counted(self, *args):
            if len(count) == limit:
                raise KeyboardInterrupt
            count.append(1)
            return loss(self, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PPO, "loss", counted)
            return learnt(memory, latents, run, **settings)

    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    expected = trained(whole)
    with pytest.raises(KeyboardInterrupt):
        trained(parts, 2 if world == "game" else 37)
    found = trained(parts)
    assert all(np.array_equal(found.arrays[name], expected.arrays[name]) for name in expected.arrays)
    assert read_metrics(parts.folder) == read_metrics(whole.folder)
    if world == "game":
        assert (played[whole].played, played[parts].played) == (5, 3)


def test_a_controller_that_has_no_critic_is_refused(run, latents):
    with pytest.raises(UserError, match="--controller.kind linear has no critic to learn"):
        learnt(World(), latents, run, LinearConfig())
