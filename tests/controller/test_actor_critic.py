"""Actor and critic: their equations by hand, their gradients against finite differences, and toy worlds whose best
actions are known."""

from dataclasses import replace
from types import MappingProxyType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from tests.conftest import make_latents
from tests.controller.test_cem import World, walked
from tests.memory.test_memories import SMALL as SMALL_MEMORIES
from worldmodels import training
from worldmodels.controller import LinearConfig, PolicySpec, Practice, build
from worldmodels.controller.actor import CRITICS, ActorConfig, log_density
from worldmodels.controller.actor_critic import UNROLL, ActorCritic, ActorCriticConfig, ActorCriticLearner
from worldmodels.controller.cem import CEMConfig
from worldmodels.envs import TASKS
from worldmodels.episodes import Episode
from worldmodels.memory import MEMORIES
from worldmodels.memory.noise import draw
from worldmodels.metrics import read_metrics
from worldmodels.runs import Run
from worldmodels.types import UserError

ACTOR = ActorConfig(units=8, layers=1)


class Dreamt(NamedTuple):
    """What `ActorCritic._imagine` gives."""

    x: torch.Tensor
    reward: torch.Tensor
    p_done: torch.Tensor
    epsilon: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    @property
    def u(self):
        return self.mean + self.std * self.epsilon


def imagined(model, states, seed, gradient):
    model.config = replace(model.config, gradient=gradient)
    return Dreamt(*model._imagine(states, torch.Generator().manual_seed(seed)))


def paid_at_two(z, a, luck):
    return -(z - 2).square()


def agent_of(memory, task="toy"):
    return SimpleNamespace(task=TASKS[task], memory=memory)


def states_of(memory, count, low=-2.0, high=6.0, dtype=torch.float32):
    return memory.initial(torch.linspace(low, high, count, dtype=dtype)[:, None])


def begun(memory, states, actor=ACTOR, task="toy", arrays=MappingProxyType({}), seed=0, **settings):
    """Actor and critic before their first step."""
    model = ActorCritic(ActorCriticConfig(**{"temperature": 1.0} | settings), actor, agent_of(memory, task))
    model.begin(states, np.random.default_rng(seed), arrays)
    return model


def larger(model, scale=1.0):
    """With noise on all weights: the last layer's are small; and a slow critic of its own."""
    for parameters in (model.actor, model.critic, model.slow):
        parameters.data += scale * torch.randn_like(parameters)
    return model


def seeded_loss(model, states, seed=0):
    """The loss, the critic's part of it, and all metrics."""
    loss, metrics = model.loss(states, torch.Generator().manual_seed(seed))
    return loss, metrics["critic"], metrics


def trained(model, states, steps, batch=64):
    """After some steps of Adam at the config's rate, falling to zero."""
    optimizer = torch.optim.Adam(model.parameters(), model.config.learning_rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = model.config.learning_rate * (1 - step / steps)
        loss, *_ = seeded_loss(model, states.select(torch.randint(len(states.features), (batch,))), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def policy_of(model, actor=ACTOR):
    """The policy as it is stored, ready for one rollout, or for many."""
    arrays = {name: t.numpy()[None] for name, t in model.arrays().items()}
    policy = build(PolicySpec(actor, arrays), model.agent)
    policy.reset(range(1))
    return policy


def value_of(policy, state):
    return policy.value(torch.cat([state.features, torch.ones(len(state.features), 1)], 1).t())


# lambda-returns and weights

IDENTITY = torch.tensor([1.0, 0.0, 1.0, 0.0])   # of one ELU: what is above zero


def two_steps_by_hand(monkeypatch, **settings):
    """An imagination of two steps in which the value of x is x; and another rollout in which nothing is worth
    anything."""
    actor = ActorConfig(units=1, layers=1, critic="value")
    model = begun(World(), states_of(World(), 5), actor, horizon=2, discount=0.8, trace=0.5, **settings)
    model.critic.data, model.slow = IDENTITY.clone(), IDENTITY.clone()
    x = torch.tensor([[10.0, 0.0], [4.0, 0.0], [6.0, 0.0]])[..., None]
    reward, p_done = torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.5, 0.5], [0.25, 0.5]])
    mean, std = torch.tensor([[0.3, -0.1], [0.2, 0.0]])[..., None], torch.full((2, 2, 1), 0.5)
    epsilon = torch.tensor([[1.0, -1.0], [0.5, 0.2]])[..., None]
    dreamt = Dreamt(x, reward, p_done, epsilon, mean, std)
    monkeypatch.setattr(model, "_imagine", lambda *args: dreamt)
    return model, dreamt


def test_returns_and_weights_by_hand(monkeypatch):
    """R_1 = 2 + 0.8 * 0.75 * 6 = 5.6;  R_0 = 1 + 0.8 * 0.5 * (0.5 * 4 + 0.5 * 5.6) = 2.92;  w = 1, 0.8 * 0.5."""
    model, _ = two_steps_by_hand(monkeypatch)
    _, critic, metrics = seeded_loss(model, None)
    assert metrics["return"].item() == pytest.approx((2.92 + 5.6) / 4)
    assert metrics["reward"].item() == pytest.approx(3 / 4)
    assert critic.item() == pytest.approx((0.5 * (10 - 2.92)**2 + 0.4 * 0.5 * (4 - 5.6)**2) / 4)


def test_the_actors_loss_by_hand(monkeypatch):
    """Of the first rollout: nothing that the second does has an advantage, but its actions have an entropy."""
    for gradient in UNROLL:
        for return_scale in (True, False):
            model, dreamt = two_steps_by_hand(monkeypatch, gradient=gradient, entropy=0.1, return_scale=return_scale)
            loss, critic, _ = seeded_loss(model, None)
            mean, std = model._actor(dreamt.x[:-1])
            u, weight = dreamt.u, torch.tensor([[1.0, 1.0], [0.4, 0.4]])
            returns, value = torch.tensor([[2.92, 0.0], [5.6, 0.0]]), torch.tensor([[10.0, 0.0], [4.0, 0.0]])
            scale = np.quantile([2.92, 5.6, 0, 0], 0.95) - np.quantile([2.92, 5.6, 0, 0], 0.05) if return_scale else 1
            if gradient == "dynamics":
                entropy = -log_density(u, dreamt.mean, dreamt.std)
                expected = weight * (returns / scale + 0.1 * entropy)
            else:
                entropy = -log_density(mean + std * dreamt.epsilon, mean, std)
                expected = weight * (log_density(u, mean, std) * (returns - value) / scale + 0.1 * entropy)
            assert (loss - critic).item() == pytest.approx(-expected.mean().item(), rel=1e-4)


def test_returns_are_those_of_a_plain_loop():
    """Of an imagination by a memory whose rewards and ends depend on z. `_imagine` draws the same again."""
    memory = World(lambda z, a, luck: z + luck, lambda z: torch.sigmoid(z - 4))
    states, settings = states_of(memory, 7), {"horizon": 6, "discount": 0.9, "trace": 0.7}
    model = larger(begun(memory, states, ActorConfig(units=8, layers=1, critic="symlog"), **settings))
    slow, critics = model.slow, CRITICS["symlog"]
    with torch.no_grad():
        dreamt = imagined(model, states, 0, "dynamics")
        value = critics.value(model._critic(dreamt.x, slow)).tolist()
        outputs = model._critic(dreamt.x, model.critic)
    reward, p_done, returns, losses = dreamt.reward.tolist(), dreamt.p_done.tolist(), [], []
    for b in range(7):
        after, alive = value[6][b], [0.9**t * np.prod([1 - p_done[k][b] for k in range(t)]) for t in range(6)]
        for t in reversed(range(6)):
            after = reward[t][b] + 0.9 * (1 - p_done[t][b]) * (0.3 * value[t + 1][b] + 0.7 * after)
            returns.append(after)
            losses.append(alive[t] * critics.loss(outputs[t, b], torch.tensor(after)).item())
    _, critic, metrics = seeded_loss(model, states)
    assert metrics["return"].item() == pytest.approx(np.mean(returns), rel=1e-4)
    assert critic.item() == pytest.approx(np.mean(losses), rel=1e-4)
    assert metrics["spread"].item() == pytest.approx(np.quantile(returns, 0.95) - np.quantile(returns, 0.05), rel=1e-4)


@pytest.mark.parametrize("gradient, critic", [("reinforce", critic) for critic in CRITICS] + [("dynamics", "two_hot")])
def test_the_critic_learns_what_a_reward_of_one_is_worth_until_death(gradient, critic):
    """1 / (1 - gamma (1 - p_done)), wherever it is. Nothing moves, so that no value is extrapolated."""
    class Standing(World):
        def imagine(self, state, action, temperature, noise):
            return super().imagine(state, 0 * action, temperature, noise)

    memory = Standing(lambda z, a, luck: torch.ones_like(z), lambda z: torch.full_like(z, 0.1))
    actor, states = ActorConfig(units=8, layers=1, critic=critic), states_of(memory, 100)
    model = begun(memory, states, actor, horizon=5, discount=0.9, learning_rate=0.02, slow_rate=0.1, gradient=gradient)
    policy = policy_of(trained(model, states, 250), actor)
    value = value_of(policy, states)
    assert value.mean().item() == pytest.approx(1 / (1 - 0.9 * 0.9), rel=0.03)
    assert value.std() < 0.5


# imagination

@pytest.mark.parametrize("kind, task", (("mdn_rnn", "car_racing"), ("rssm", "take_cover"), ("gru", "toy")))
@pytest.mark.parametrize("sees", ("all", "z"))
def test_imagination_in_place_is_imagination(kind, task, sees):
    """And what is seen lies about zero, at a distance of about one."""
    size = TASKS[task].action_size
    memory = MEMORIES[kind](MEMORIES[kind].Config(**SMALL_MEMORIES[kind]), 8, size)
    noise = next(draw(memory.observe_noise, 16, torch.Generator().manual_seed(0), torch.zeros(1)))
    states = memory.initial(3 + 2 * torch.randn(16, 8), noise)
    model = larger(begun(memory, states, ActorConfig(units=8, layers=1, sees=sees), task, horizon=4), 0.3)
    z = model._seen(states.features)[:, :8]
    torch.testing.assert_close(z.mean(0), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(8), atol=1e-4, rtol=0)
    for _ in range(2):                                              # the dreamer is used again
        plain, in_place = (imagined(model, states, 7, gradient) for gradient in UNROLL)
        for name, one, other in zip(Dreamt._fields, plain, in_place):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4, msg=name)
        assert plain.x.shape[:2] == (5, 16) and plain.u.shape == (4, 16, size) and plain.reward.shape == (4, 16)
        torch.testing.assert_close(plain.x[0], model._seen(states.features))
    assert plain.x.requires_grad and not in_place.x.requires_grad and not in_place.reward.requires_grad
    other = imagined(model, states, 8, "dynamics")
    assert not torch.allclose(other.epsilon, plain.epsilon)


def test_actions_are_drawn_from_the_actors_normal_distribution():
    """And squashed by the task: z moves by tanh(mu + sigma epsilon)."""
    memory = World()
    states = states_of(memory, 4000)
    model = larger(begun(memory, states, horizon=2))
    dreamt = imagined(model, states, 0, "reinforce")
    mean, std = model._actor(dreamt.x[:-1])
    torch.testing.assert_close(dreamt.mean, mean)
    torch.testing.assert_close(dreamt.std, std)
    torch.testing.assert_close(dreamt.x[1:] - dreamt.x[:-1], torch.tanh(mean + std * dreamt.epsilon) / model.std,
                               atol=1e-4, rtol=1e-4)
    assert abs(dreamt.epsilon.mean()) < 0.05 and dreamt.epsilon.std().item() == pytest.approx(1, abs=0.05)


# gradients

SMOOTH = World(lambda z, a, luck: torch.sin(z) - 0.3 * a.square(), lambda z: torch.full_like(z, 0.1))
DEADLY = World(lambda z, a, luck: torch.cos(z), lambda z: torch.sigmoid(z - 2))


@pytest.mark.parametrize("memory, horizon", ((SMOOTH, 4), (DEADLY, 1)), ids=("four steps", "one that may be the last"))
@pytest.mark.parametrize("critic", CRITICS)
def test_the_gradient_through_dynamics_is_that_of_finite_differences(memory, horizon, critic):
    """The weights of steps have none, which is why ends that depend on actions are in the last step only."""
    states = states_of(memory, 12, dtype=torch.float64)
    model = larger(begun(memory, states, ActorConfig(units=4, layers=2, critic=critic), gradient="dynamics",
                         horizon=horizon, slow_rate=0.0, return_scale=False, entropy=0.1), 0.3)

    def of_actor():
        loss, critic, _ = seeded_loss(model, states)
        return loss - critic

    gradient, = torch.autograd.grad(of_actor(), model.actor)
    before, step = model.actor.data, 1e-5
    for i in range(len(before)):
        shift = step * torch.eye(len(before), dtype=before.dtype)[i]
        values = []
        for model.actor.data in (before + shift, before - shift):
            values.append(of_actor().item())
        assert gradient[i].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-8)
    assert gradient.abs().min() > 0


def test_both_gradients_have_the_same_mean_where_one_step_is_imagined():
    """Of what makes mu. The estimate of what makes sigma has more noise."""
    memory, found = World(paid_at_two, lambda z: torch.sigmoid(z - 4)), []
    states = states_of(memory, 20_000)
    for gradient in UNROLL:
        torch.manual_seed(0)
        model = larger(begun(memory, states, ActorConfig(units=2, layers=1, critic="value"), gradient=gradient,
                             horizon=1, return_scale=False, entropy=0.0), 0.3)
        loss, critic, _ = seeded_loss(model, states)
        gradients, = torch.autograd.grad(loss - critic, model.actor)
        found.append(gradients[[0, 1, 2, 3, 4, 6, 8]])              # without the last layer's second column [3, 2]
    dynamics, reinforce = found
    assert torch.cosine_similarity(dynamics, reinforce, 0) > 0.98
    assert (reinforce.norm() / dynamics.norm()).item() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("gradient", UNROLL)
def test_the_actors_loss_does_not_reach_the_critic_and_the_other_way_round(gradient):
    states = states_of(SMOOTH, 10)
    model = larger(begun(SMOOTH, states, gradient=gradient, horizon=3))
    loss, critic, _ = seeded_loss(model, states)
    of_critic = torch.autograd.grad(critic, [model.actor, model.critic], retain_graph=True, allow_unused=True)
    of_actor = torch.autograd.grad(loss - critic, [model.actor, model.critic], allow_unused=True)
    assert of_critic[0] is None and of_critic[1].abs().max() > 0
    assert of_actor[0].abs().max() > 0 and (of_actor[1] is None or not of_actor[1].any())


# the slow critic, and the scale of returns

def test_the_slow_critic_follows_and_values_by_itself():
    """It begins as the critic, and the values in the returns are its."""
    memory = World()
    states = states_of(memory, 10)
    model = begun(memory, states, ActorConfig(units=8, layers=1, critic="value"), horizon=2, discount=1.0)
    slow = model.slow.clone()
    assert torch.equal(slow, model.critic)
    model.critic.data[-1] += 7.0                                    # the last bias: every value is 7 higher
    for _ in range(3):
        *_, metrics = seeded_loss(model, states)
        assert metrics["return"].item() == pytest.approx(slow[-1].item(), abs=0.1)
        slow = slow + 0.02 * (model.critic.detach() - slow)
        torch.testing.assert_close(model.slow, slow)
    assert slow[-1].item() == pytest.approx(7 * (1 - 0.98**3), rel=1e-4)


def test_with_a_rate_of_one_the_slow_critic_is_the_critic():
    states = states_of(SMOOTH, 10)
    model = begun(SMOOTH, states, slow_rate=1.0, horizon=2)
    model.critic.data += 1.0
    seeded_loss(model, states)
    torch.testing.assert_close(model.slow, model.critic.detach())


def test_the_spread_of_returns_is_followed_slowly_from_the_first_one_on():
    model = begun(World(), states_of(World(), 5))
    model._follow(torch.linspace(0, 10, 101).view(1, 101))
    assert model.spread.item() == pytest.approx(9)                  # from 5% to 95%
    model._follow(torch.linspace(0, 100, 101).view(1, 101))
    assert model.spread.item() == pytest.approx(0.99 * 9 + 0.01 * 90)


@pytest.mark.parametrize("gradient", UNROLL)
@pytest.mark.parametrize("size", (0.01, 50.0))
def test_returns_are_divided_by_their_spread_where_that_is_above_one(gradient, size):
    memory, losses = World(lambda z, a, luck: size * torch.sin(z)), {}
    states = states_of(memory, 40)
    for return_scale in (True, False):
        torch.manual_seed(0)
        model = larger(begun(memory, states, ActorConfig(units=8, layers=1, critic="value"), gradient=gradient,
                             horizon=3, entropy=0.0, return_scale=return_scale), 0.01)
        loss, critic, metrics = seeded_loss(model, states)
        losses[return_scale] = (loss - critic).item()
    spread = metrics["spread"].item()
    assert (spread > 1) == (size > 1)
    assert losses[True] * max(1, spread) == pytest.approx(losses[False], rel=0.01)


# what is learnt

QUICK = {"steps": 200, "batch": 64, "learning_rate": 0.02, "horizon": 5, "discount": 0.9, "slow_rate": 0.1}


def recorded(folder):
    """Episodes of z from -2 to 6, in which nothing is to be learnt."""
    rng = np.random.default_rng(0)
    zeros = np.zeros(50, np.float32)
    return make_latents(folder, [(rng.uniform(-2, 6, (51, 1)).astype(np.float32),
                                  Episode(None, zeros[:, None], zeros, zeros > 0, zeros > 0)) for _ in range(6)])


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("recorded"))


def learnt(memory, latents, run, controller=ACTOR, previous=None, seed=0, **settings):
    practice = Practice(None, lambda: latents, 1.0, seed, training=0, previous=previous)
    learner = ActorCriticLearner(ActorCriticConfig(**QUICK | settings))
    return learner.learn(agent_of(memory), practice, controller, run, {"controller": controller})


def walk(memory, spec, z, steps=10):
    """Where the policy goes from z on, [steps, B]."""
    policy = build(spec, agent_of(memory))
    policy.reset(range(len(z)))
    return walked(memory, policy, torch.tensor(z)[:, None], steps)


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("gradient", UNROLL)
def test_it_goes_where_it_pays_and_stays(run, latents, gradient, critic):
    memory = World(paid_at_two)
    spec = learnt(memory, latents, run, ActorConfig(units=16, layers=1, critic=critic), gradient=gradient)
    path = walk(memory, spec, [-2.0, 1.5, 2.5, 6.0])
    assert (path[-3:] - 2).abs().max() < 0.7
    assert path[0, 0] > -1.4 and path[0, 3] < 5.4
    rewards = [row["reward"] for row in read_metrics(run.folder, "behaviour")]
    assert rewards[-1] > rewards[0] + 1


@pytest.mark.parametrize("gradient", UNROLL)
def test_where_every_step_pays_the_same_it_lives_long(run, latents, gradient):
    memory = World(lambda z, a, luck: torch.ones_like(z), lambda z: torch.sigmoid(z))
    path = walk(memory, learnt(memory, latents, run, gradient=gradient), [-1.0, 0.0, 2.0])
    assert (path.diff(dim=0) < -0.3).all()


def test_it_learns_a_planners_guide_as_it_learns_an_actor(tmp_path, latents):
    memory, planner = World(paid_at_two), CEMConfig(guided=True, actor=ACTOR, horizon=3, candidates=8, discount=0.9)
    spec, actor = (learnt(memory, latents, Run(tmp_path / kind.kind), kind) for kind in (planner, ACTOR))
    assert spec.config == planner and spec.arrays.keys() == actor.arrays.keys() == {"parameters", "critic"}
    assert all(np.array_equal(spec.arrays[name], actor.arrays[name]) for name in spec.arrays)
    assert (walk(memory, spec, [-2.0, 6.0])[-1] - 2).abs().max() < 0.6


@pytest.mark.parametrize("controller", (LinearConfig(), CEMConfig()), ids=("linear", "a planner without a guide"))
def test_a_controller_that_has_no_critic_is_refused(run, latents, controller):
    with pytest.raises(UserError, match=f"--controller.kind {controller.kind} has no critic to learn"):
        learnt(World(), latents, run, controller)
    assert not run.path("controller").exists()


# a later training, and an interrupted one

@pytest.mark.parametrize("critic", CRITICS)
def test_a_later_training_begins_with_the_policy_before(critic):
    """Though it sees features at another scale."""
    memory, actor = World(), ActorConfig(units=8, layers=2, critic=critic)
    first = larger(begun(memory, states_of(memory, 50), actor), 0.2)
    arrays = {name: t.numpy()[None] for name, t in first.arrays().items()}
    later = begun(memory, states_of(memory, 50, 3.0, 40.0), actor, arrays=arrays, seed=1)
    assert not torch.allclose(later.std, first.std) and torch.equal(later.slow, later.critic)
    state, policies = states_of(memory, 20, -5.0, 20.0), [policy_of(model, actor) for model in (first, later)]
    torch.testing.assert_close(policies[1](state), policies[0](state), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(value_of(policies[1], state), value_of(policies[0], state), atol=1e-2, rtol=1e-3)
    with torch.no_grad():
        mean, _ = later._actor(later._seen(state.features))
    torch.testing.assert_close(torch.tanh(mean), policies[0](state), atol=1e-4, rtol=1e-4)


def test_a_policy_without_a_critic_is_followed_by_one_that_has_one():
    memory = World()
    states = states_of(memory, 50)
    parameters = larger(begun(memory, states)).arrays()["parameters"].numpy()[None]
    later = policy_of(begun(memory, states, arrays={"parameters": parameters}))
    before = build(PolicySpec(ACTOR, {"parameters": parameters}), agent_of(memory))
    before.reset([0])
    torch.testing.assert_close(later(states), before(states), atol=1e-4, rtol=1e-4)
    assert value_of(later, states).isfinite().all()


def test_a_later_round_learns_from_the_policy_of_the_one_before(tmp_path, latents):
    memory = World(paid_at_two)
    before = learnt(memory, latents, Run(tmp_path / "run"))
    after = learnt(memory, latents, Run(tmp_path / "run", 2), previous=before, steps=1, learning_rate=1e-9)
    anew = learnt(memory, latents, Run(tmp_path / "other", 2), steps=1, learning_rate=1e-9)
    z = [-2.0, 0.0, 1.9, 6.0]
    torch.testing.assert_close(walk(memory, after, z), walk(memory, before, z), atol=1e-2, rtol=0)
    assert (walk(memory, anew, z)[-1] - 2).abs().max() > 1


@pytest.mark.parametrize("gradient", UNROLL)
@pytest.mark.parametrize("step, saved", ((10, 0), (50, 40)))
def test_a_resumed_training_ends_bit_for_bit_where_an_uninterrupted_one_does(tmp_path, latents, monkeypatch, gradient,
                                                                             step, saved):
    """It goes on from the last checkpoint."""
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)

    class Counted(World):
        """Is interrupted after so many imagined steps."""

        def __init__(self, limit=None):
            super().__init__(lambda z, a, luck: luck - z.square(), lambda z: torch.sigmoid(z - 5))
            self.limit, self.uses = limit, 0

        def imagine(self, *args):
            if self.uses == self.limit:
                raise KeyboardInterrupt
            self.uses += 1
            return super().imagine(*args)

    settings = {"gradient": gradient, "steps": 60, "final_anneal": 0.3}
    whole, rest, undisturbed, run = Counted(), Counted(), Run(tmp_path / "whole"), Run(tmp_path / "parts")
    expected = learnt(whole, latents, undisturbed, **settings)
    with pytest.raises(KeyboardInterrupt):
        learnt(Counted(step * QUICK["horizon"] + 2), latents, run, **settings)
    found = learnt(rest, latents, run, **settings)
    assert (whole.uses, rest.uses) == (60 * QUICK["horizon"], (60 - saved) * QUICK["horizon"])
    assert all(np.array_equal(found.arrays[name], expected.arrays[name]) for name in expected.arrays)
    stored, wanted = (r.load("behaviour", "train_controller")[0] for r in (run, undisturbed))
    assert stored.keys() == wanted.keys() >= {"actor", "critic", "slow", "mean", "std", "spread"}
    assert all(torch.equal(stored[name], wanted[name]) for name in wanted)
    assert read_metrics(run.folder) == read_metrics(undisturbed.folder)


def test_another_training_of_the_same_run_has_other_chance(tmp_path, latents):
    memory, arrays = World(paid_at_two), []
    for number, (seed, round) in enumerate(((0, 1), (0, 1), (1, 1), (0, 2))):
        spec = learnt(memory, latents, Run(tmp_path / str(number), round), seed=seed, steps=3)
        arrays.append(spec.arrays["parameters"])
    assert np.array_equal(arrays[0], arrays[1])
    assert not any(np.array_equal(arrays[0], other) for other in arrays[2:])
