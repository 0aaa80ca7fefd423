"""What every kind of memory keeps to: the conformance tests of MEMORIES."""

import numpy as np
import pytest
import torch

from worldmodels.envs.toy import POSITIONS
from worldmodels.memory import MEMORIES, MemoryConfig
from worldmodels.memory.train import train_memory
from worldmodels.runs import Run
from worldmodels.types import Noise, Transitions

B, T, Z, A = 3, 12, 4, 2


@pytest.fixture(params=MEMORIES)
def kind(request):
    return request.param


@pytest.fixture(params=({}, {"restart_input": True, "cell_feature": True}, {"head_size": 5, "restart_input": True},
                        {"peek": True}, {"peek": True, "restart_input": True, "cell_feature": True, "head_size": 5}),
                ids=("plain", "paper's TakeCover", "deep head", "peek", "all of it"))
def memory(kind, request):
    config = MemoryConfig(kind=kind, hidden_size=6, mixtures=3, **request.param)
    memory = MEMORIES[kind](config, Z, A).double()
    for p in memory.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return memory


def transitions(restart=()):
    """Random transitions with restarts at the given (stream, step)."""
    z = torch.randn(B, T + 1, Z, dtype=torch.float64)
    flags = torch.zeros(B, T, dtype=torch.float64)
    for b, t in restart:
        flags[b, t] = 1
    return Transitions(z[:, :-1], torch.randn(B, T, A, dtype=torch.float64), z[:, 1:], torch.randn(B, T, dtype=torch.float64),
                       torch.randint(2, (B, T)).double(), flags)


def watched(memory, steps=5):
    """A state after some steps of observation."""
    batch = transitions()
    state = memory.initial(batch.z[:, 0])
    for t in range(steps):
        state = memory.observe(state, batch.action[:, t], batch.next_z[:, t])
    return state


def noise(memory, seed=0, batch=B):
    """Noise for one step of a batch."""
    rng = np.random.default_rng(seed)
    U, N = memory.noise_size
    return Noise(torch.from_numpy(rng.random((batch, U))), torch.from_numpy(rng.standard_normal((batch, N))))


def test_features_have_the_stated_size_and_show_the_latent(memory):
    for state in (memory.initial(torch.ones(B, Z).double()), watched(memory)):
        assert state.features.shape == (B, memory.feature_size)
        assert all(len(t) == B for t in state.inner)
    z = torch.randn(B, Z).double()
    assert torch.equal(memory.initial(z).features[:, :Z], z)
    assert torch.equal(memory.observe(watched(memory), torch.zeros(B, A).double(), z).features[:, :Z], z)


def test_imagining_equals_observing_what_was_imagined(memory):
    state, action = watched(memory), torch.randn(B, A).double()
    imagined = memory.imagine(state, action, 1.0, noise(memory))
    observed = memory.observe(state, action, imagined.state.features[:, :Z])
    assert torch.equal(imagined.state.features, observed.features)
    for a, b in zip(imagined.state.inner, observed.inner):
        assert torch.equal(a, b)


def test_imagination_follows_its_noise(memory):
    state, action = watched(memory), torch.randn(B, A).double()
    first, second, other = (memory.imagine(state, action, 1.0, noise(memory, seed)) for seed in (4, 4, 5))
    assert torch.equal(first.state.features, second.state.features) and torch.equal(first.risk, second.risk)
    assert not torch.equal(first.state.features, other.state.features)
    assert first.reward.shape == first.risk.shape == (B,) and ((0 < first.risk) & (first.risk < 1)).all()
    assert torch.equal(first.risk, other.risk)                      # the same before the dice are thrown
    assert torch.equal(first.done, noise(memory, 4).uniform[:, -1] < first.risk)


@pytest.mark.parametrize("temperature", (0.5, 1.0, 1.3))
@torch.no_grad()
def test_a_dreamer_dreams_what_is_imagined(memory, temperature):
    """What linear controllers make of the features, rewards and deaths, step by step, also after some dreams were dropped."""
    state, weight, bias = watched(memory), torch.randn(B, memory.feature_size, A).double(), torch.randn(B, A).double()
    dreamer = memory.dreamer(B, A, temperature)
    dreamer.load(watched(memory), 2 * weight, bias)                 # which leaves nothing behind
    dreamer.step(torch.randn(A, B).double(), torch.cat(noise(memory, 9), 1).t())
    for start in (memory.initial(torch.randn(B, Z).double()), state):
        dreamer.load(start, weight, bias)
        state, kept = start, torch.arange(B)
        for t in range(12):
            out = (state.features[:, None] @ weight[kept])[:, 0] + bias[kept]
            torch.testing.assert_close(dreamer.look().t(), out)
            imagined = memory.imagine(state, out.tanh(), temperature, Noise(*(n[kept] for n in noise(memory, t))))
            reward, risk = dreamer.step(out.tanh().t(), torch.cat(noise(memory, t), 1)[kept].t())
            torch.testing.assert_close(reward, imagined.reward)
            torch.testing.assert_close(risk, imagined.risk)
            state = imagined.state
            if t == 6:
                index = torch.tensor([2, 0])
                dreamer.keep(index)
                state, kept = state.rows(index), kept[index]
        dreamer = memory.dreamer(B, A, temperature)


def test_rollouts_do_not_know_each_other(memory):
    state, action, z = watched(memory), torch.randn(B, A).double(), torch.randn(B, Z).double()
    index = torch.tensor([2, 0, 0])
    together = memory.observe(state, action, z).rows(index)
    apart = memory.observe(state.rows(index), action[index], z[index])
    torch.testing.assert_close(apart.features, together.features)


def test_the_past_and_the_action_matter(memory):
    state, z = watched(memory), torch.randn(B, Z).double()
    a, b = (memory.observe(state, torch.full((B, A), x).double(), z).features for x in (-1.0, 1.0))
    assert (a != b).any()
    other = memory.observe(watched(memory), torch.full((B, A), -1.0).double(), z).features
    assert (a != other).any()


def test_the_loss_gives_every_parameter_a_gradient(memory):
    loss, metrics, carry = memory.loss(transitions([(0, 0), (1, 5)]), None, torch.Generator())
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in memory.parameters())
    assert loss.dim() == 0 and all(value.dim() == 0 and value.isfinite() for value in metrics.values())
    assert metrics["loss"].item() == loss.item()


def test_the_loss_of_two_windows_equals_that_of_the_whole(memory):
    batch = transitions([(0, 3), (1, 6), (2, 9)])
    whole, _, _ = memory.loss(batch, None, torch.Generator())
    first, _, carry = memory.loss(Transitions(*(t[:, :6] for t in batch)), None, torch.Generator())
    second, _, _ = memory.loss(Transitions(*(t[:, 6:] for t in batch)), carry, torch.Generator())
    assert whole.item() == pytest.approx((first.item() + second.item()) / 2)
    assert not any(t.requires_grad for t in carry)


def test_a_restart_forgets_what_came_before(memory):
    """The loss of two episodes in one stream equals that of each on its own."""
    batch = transitions([(b, t) for b in range(B) for t in (0, 5)])
    whole, _, _ = memory.loss(batch, None, torch.Generator())
    first, _, carry = memory.loss(Transitions(*(t[:, :5] for t in batch)), None, torch.Generator())
    for before in (None, carry):
        second, _, _ = memory.loss(Transitions(*(t[:, 5:] for t in batch)), before, torch.Generator())
        assert whole.item() == pytest.approx((5 * first.item() + 7 * second.item()) / 12)


@pytest.fixture(scope="module", params=MEMORIES)
def toy_memory(request, toy_latents, tmp_path_factory):
    """A memory trained on the toy world, its latent the position one-hot; a few seconds."""
    torch.manual_seed(0)
    config = MemoryConfig(kind=request.param, hidden_size=32, mixtures=2, steps=500, batch=16, sequence=20, learning_rate=2e-2,
                          final_anneal=0.5, reward_weight=0.1, death="threshold")
    memory = MEMORIES[request.param](config, POSITIONS, 1)
    train_memory(memory, toy_latents, Run(tmp_path_factory.mktemp("memory")), {}, 0)
    return memory


def walk(memory, positions):
    """The state after observing a walk through these positions."""
    z = torch.eye(POSITIONS)[positions]
    state = memory.initial(z[:1])
    for before, after, arrived in zip(positions, positions[1:], z[1:]):
        state = memory.observe(state, torch.tensor([[float(after - before)]]), arrived[None])
    return state


def expect(memory, positions, action):
    """What the memory expects of one more step: mean latent over draws, reward, risk."""
    with torch.no_grad():
        state = walk(memory, positions).rows(torch.zeros(200, dtype=torch.int64))
        imagined = memory.imagine(state, torch.full((200, 1), action), 1.0, Noise(*(t.float() for t in noise(memory, batch=200))))
    return imagined.state.features[:, :POSITIONS].mean(0), imagined.reward[0].item(), imagined.risk[0].item()


@pytest.mark.parametrize("path", ([4, 5, 6], [6, 7, 6, 7, 8, 9], [7, 8, 9, 10, 11, 10, 11, 12]), ids=str)
def test_the_step_to_come_is_learnt_where_it_happens(toy_memory, path):
    """Reward and next latent are those of the step from here by this action: one step off, and both would be a position wrong."""
    for action, arrival in ((1.0, path[-1] + 1), (-1.0, path[-1] - 1)):
        z, reward, risk = expect(toy_memory, path, action)
        assert reward == pytest.approx(arrival, abs=0.45)
        assert int(z.argmax()) == arrival
        assert risk < 0.5


def test_the_end_is_learnt_at_the_step_that_arrives_there(toy_memory):
    path = [10, 11, 12, 13, 14]
    assert expect(toy_memory, path, 1.0)[2] > 0.5       # 14 -> 15 ends it
    assert expect(toy_memory, path, -1.0)[2] < 0.5
    assert expect(toy_memory, path[:-1], 1.0)[2] < 0.5  # 13 -> 14 does not
    assert expect(toy_memory, path[:-2], 1.0)[2] < 0.5
