"""What every kind of memory keeps to: the conformance tests of MEMORIES. `Elman` is the least that a memory is."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from worldmodels.envs.toy import POSITIONS
from worldmodels.memory import MEMORIES, MDNRNNConfig
from worldmodels.memory.dreamer import PlainDreamer
from worldmodels.memory.gru import GRUConfig
from worldmodels.memory.heads import MemoryConfig, cross_entropy
from worldmodels.memory.rssm import RSSMConfig
from worldmodels.memory.train import train_memory
from worldmodels.runs import Run
from worldmodels.types import Imagined, NoiseSize, State, Transitions

B, T, Z, A = 3, 12, 4, 2


@dataclass(frozen=True)
class ElmanConfig(MemoryConfig):
    kind: str = "elman"
    hidden_size: int = 256


class Elman(nn.Module):
    """h' = tanh(W [z, a, h]) (Elman 1990), z' ~ N(mu(h'), tau sigma^2). Inner state: z [B, Z], h [B, H]."""

    Config, observe_noise = ElmanConfig, NoiseSize()

    def __init__(self, config, z_size, action_size):
        super().__init__()
        self.config, self.z_size, self.action_size = config, z_size, action_size
        self.feature_sizes = {"z": z_size, "h": config.hidden_size}
        self.imagine_noise = NoiseSize({"done": 1}, {"z": z_size})
        self.cell = nn.Linear(z_size + action_size + config.hidden_size, config.hidden_size)
        self.head, self.log_sigma = nn.Linear(config.hidden_size, z_size + 2), nn.Parameter(torch.zeros(z_size))

    def step(self, z, h, action):
        h = self.cell(torch.cat([z, action, h], -1)).tanh()
        return h, *self.head(h).split([self.z_size, 1, 1], -1)

    def initial(self, z, noise=None):
        return self.state(z, z.new_zeros(len(z), self.config.hidden_size))

    def observe(self, state, action, z, noise=None):
        return self.state(z, self.step(*state.inner, action)[0])

    def imagine(self, state, action, temperature, noise):
        h, mu, reward, logit = self.step(*state.inner, action)
        z, p_done = mu + temperature**0.5 * self.log_sigma.exp() * noise["z"], logit[:, 0].sigmoid()
        done = noise["done"][:, 0] < p_done
        return Imagined(self.state(z, h), reward[:, 0], p_done, done, torch.zeros_like(p_done), lambda: mu)

    def correct(self, state, z, noise=None):
        return self.state(z, state.inner[1])

    def state(self, z, h):
        return State(torch.cat([z, h], -1), (z, h))

    def latent(self, state):
        return state.inner[0]

    def dreamer(self, batch, temperature):
        return PlainDreamer(self, temperature)

    def loss(self, batch, carry, generator):
        h, rows = carry[0] if carry else batch.z.new_zeros(len(batch.z), self.config.hidden_size), []
        for t in range(batch.z.shape[1]):
            h, *out = self.step(batch.z[:, t], h * (1 - batch.restart[:, t, None]), batch.action[:, t])
            rows.append(out)
        mu, reward, logit = (torch.stack(parts, 1) for parts in zip(*rows))
        nll = (0.5 * ((batch.next_z - mu) / self.log_sigma.exp()).square() + self.log_sigma).mean()
        error = (reward[..., 0] - batch.reward).square().mean()
        loss = nll + self.config.reward_weight * error + cross_entropy(logit[..., 0], batch.terminated, 1.0).mean()
        return loss, {"loss": loss, "nll": nll, "reward_error": error}, (h.detach(),)


KINDS = MEMORIES | {"elman": Elman}
VARIANTS = {                                    # the settings that each kind is tested with
    "elman": {"": {}},
    "gru": {"": {}},
    "mdn_rnn": {
        "": {},
        "paper's TakeCover": {"restart_input": True, "cell_feature": True},
        "deep head": {"head_size": 5, "restart_input": True},
        "sees current frame": {"sees_current_frame": True},
        "all of it": {"sees_current_frame": True, "restart_input": True, "cell_feature": True, "head_size": 5}},
    "rssm": {
        "": {},
        "free nats of each step": {"free_nats_per": "step", "free_nats": 0.02},
        "categorical": {"latents": "categorical"},
        "stochastic only": {"paths": "stochastic"},
        "deterministic only": {"paths": "deterministic"},
        "categorical, deterministic only": {"latents": "categorical", "paths": "deterministic"},
        "three prior heads": {"prior_heads": 3, "disagreement": "pair"}},
    "ensemble": {
        "": {},
        "of MDN-RNNs": {"member": MDNRNNConfig(hidden_size=5, mixtures=2, sees_current_frame=True)},
        "of RSSMs": {"member": RSSMConfig(hidden_size=5, stochastic_size=3, units=7, free_nats=0.01),
                     "disagreement": "deviation"},
        "a member per dream": {"member_per": "dream", "disagreement": "pair"}},
}
SMALL = {
    "elman": {"hidden_size": 6}, "gru": {"hidden_size": 6}, "mdn_rnn": {"hidden_size": 6, "mixtures": 3},
    "rssm": {"hidden_size": 6, "units": 7, "stochastic_size": 3, "classes": 4, "free_nats": 0.01},
    "ensemble": {"members": 3, "member": GRUConfig(hidden_size=5)}}
ON_TOY = {                                      # what they learn the toy world with
    "elman": {"hidden_size": 128, "steps": 700, "learning_rate": 1e-2, "reward_weight": 0.05},
    "gru": {"hidden_size": 48, "reward_weight": 0.01, "done_weight": 0.05, "death": "threshold"},
    "mdn_rnn": {"hidden_size": 32, "mixtures": 2, "reward_weight": 0.1, "death": "threshold"},
    "ensemble": {"members": 2, "member": GRUConfig(hidden_size=48), "reward_weight": 0.01, "done_weight": 0.05,
                 "death": "threshold"},
    "rssm": {"hidden_size": 32, "units": 48, "stochastic_size": 16, "steps": 900, "reward_weight": 2.0,
             "death": "threshold"},
}


def make(kind, settings):
    """A small memory with random weights, in double precision."""
    cls = KINDS[kind]
    memory = cls(cls.Config(**SMALL[kind] | settings), Z, A).double()
    for p in memory.parameters():
        nn.init.normal_(p, std=0.5)
    return memory


@pytest.fixture(params=[pytest.param((kind, settings), id=f"{kind} {name}".strip())
                        for kind, variants in VARIANTS.items() for name, settings in variants.items()])
def memory(request):
    return make(*request.param)


def transitions(restart=()):
    """Random transitions with restarts at the given (stream, step)."""
    z = torch.randn(B, T + 1, Z, dtype=torch.float64)
    flags = torch.zeros(B, T, dtype=torch.float64)
    for b, t in restart:
        flags[b, t] = 1
    return Transitions(z[:, :-1], torch.randn(B, T, A, dtype=torch.float64), z[:, 1:],
                       torch.randn(B, T, dtype=torch.float64), torch.randint(2, (B, T)).double(), flags)


def noise(memory, seed=0, batch=B, of="imagine"):
    """Noise for one step of a batch."""
    size, generator = getattr(memory, f"{of}_noise"), torch.Generator().manual_seed(seed)
    uniform, normal = size.total()
    numbers = torch.cat([torch.rand(batch, uniform, generator=generator, dtype=torch.float64),
                         torch.randn(batch, normal, generator=generator, dtype=torch.float64)], 1)
    return size.split(numbers.to(next(memory.parameters()).dtype))


def initial(memory, z):
    return memory.initial(z, noise(memory, 21, len(z), "observe"))


def observe(memory, state, action, z):
    return memory.observe(state, action, z, noise(memory, 22, len(z), "observe"))


def watched(memory, steps=5):
    """A state after some steps of observation."""
    batch = transitions()
    state = initial(memory, batch.z[:, 0])
    for t in range(steps):
        state = observe(memory, state, batch.action[:, t], batch.next_z[:, t])
    return state


def infers(memory):
    """Whether a part of the state is inferred from z, which imagination draws."""
    return "posterior" in "".join(name for name, _ in memory.named_modules())


def several(memory):
    """Whether several predictions may disagree."""
    return hasattr(memory.config, "members") or getattr(memory.config, "prior_heads", 1) > 1


def smooth(memory):
    """Whether what is drawn depends smoothly on what it is drawn from."""
    return getattr(memory.config, "latents", "") != "categorical"


def chooses(memory):
    """Whether a component of a mixture is chosen: with the noise held, another choice is a jump, which the gradient of
    a sample (mixture.sample) takes into account and finite differences do not."""
    return getattr(getattr(memory.config, "member", memory.config), "mixtures", 1) > 1


def dice(memory, beside=("done",)):
    """What is drawn in a step beside the end of the episode."""
    uniform, normal = memory.imagine_noise
    return {*uniform, *normal} - {*beside}


def test_every_kind_is_tested():
    assert VARIANTS.keys() == SMALL.keys() == ON_TOY.keys() == KINDS.keys()
    assert all(cls.Config.kind == kind for kind, cls in KINDS.items())


def test_features_have_the_stated_parts_of_which_z_is_the_first(memory):
    assert next(iter(memory.feature_sizes)) == "z"
    for state in (initial(memory, torch.ones(B, Z).double()), watched(memory)):
        assert state.features.shape == (B, sum(memory.feature_sizes.values()))
        assert all(len(t) == B for t in state.inner)
        assert torch.equal(state.features[:, :memory.feature_sizes["z"]], memory.latent(state))


def test_the_latent_is_the_z_that_was_given_or_drawn(memory):
    z, action = torch.randn(B, Z).double(), torch.randn(B, A).double()
    assert torch.equal(memory.latent(initial(memory, z)), z)
    assert torch.equal(memory.latent(observe(memory, watched(memory), action, z)), z)
    imagined = memory.imagine(watched(memory), action, 1.0, noise(memory)).state
    assert torch.equal(memory.latent(imagined), imagined.features[:, :Z])


def test_observing_is_imagining_and_then_correcting_by_what_came(memory):
    """Imagination and observation share one transition."""
    state, action, z = watched(memory), torch.randn(B, A).double(), torch.randn(B, Z).double()
    imagined = memory.imagine(state, action, 1.0, noise(memory)).state
    corrected = memory.correct(imagined, z, noise(memory, 22, of="observe"))
    assert same(corrected, observe(memory, state, action, z))
    own = memory.correct(imagined, memory.latent(imagined), noise(memory, 22, of="observe"))
    assert torch.equal(own.features, imagined.features) != infers(memory)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip((a.features, *a.inner), (b.features, *b.inner), strict=True))


@torch.no_grad()
def test_the_mean_is_that_of_many_draws(memory):
    """Of z; where z is read off a drawn state by a network, to first order."""
    for parameter in memory.parameters():
        parameter.mul_(0.3)
    row, action, many = watched(memory).select(torch.zeros(1, dtype=torch.int64)), torch.randn(1, A).double(), 40_000
    rows = row.select(torch.zeros(many, dtype=torch.int64))
    imagined = memory.imagine(rows, action.expand(many, -1), 1.0, noise(memory, 3, many))
    z = memory.latent(imagined.state)
    allowed = 4 * z.std(0) / many**0.5 + (0.05 if infers(memory) else 1e-9)
    assert ((z.mean(0) - imagined.mean()[0]).abs() < allowed).all()


def test_imagination_follows_its_noise(memory):
    """All of it; where the only chance is that of the end, z does not depend on it."""
    state, action = watched(memory), torch.randn(B, A).double()
    first, second, other = (memory.imagine(state, action, 1.0, noise(memory, seed)) for seed in (4, 4, 5))
    assert torch.equal(first.state.features, second.state.features) and torch.equal(first.p_done, second.p_done)
    assert torch.equal(first.state.features, other.state.features) == (not dice(memory))
    assert first.reward.shape == first.p_done.shape == first.uncertainty.shape == (B,)
    assert ((0 < first.p_done) & (first.p_done < 1)).all()
    assert first.uncertainty.any() == several(memory)
    if not (infers(memory) or several(memory)):                     # else they are read off what was drawn
        assert torch.equal(first.p_done, other.p_done)              # the same before the dice are thrown
    assert torch.equal(first.done, noise(memory, 4)["done"][:, 0] < first.p_done)


def test_every_part_of_the_noise_matters(memory):
    state, action, chance = watched(memory), torch.randn(B, A).double(), noise(memory)
    for part, other in noise(memory, 1).items():
        before = memory.imagine(state, action, 1.0, chance)
        after = memory.imagine(state, action, 1.0, chance | {part: other})
        if part == "done":
            assert torch.equal(before.state.features, after.state.features)
            for number, ends in ((0, True), (1, False)):
                sure = memory.imagine(state, action, 1.0, chance | {part: torch.full_like(other, number)})
                assert sure.done.tolist() == [ends] * B
        else:
            assert not torch.equal(before.state.features, after.state.features)


def test_the_temperature_matters_where_there_is_chance_in_z(memory):
    state, action = watched(memory), torch.randn(B, A).double()
    cold, hot = (memory.imagine(state, action, temperature, noise(memory)) for temperature in (0.3, 1.5))
    assert torch.equal(cold.state.features, hot.state.features) == (not dice(memory, ("done", "member")))
    if not infers(memory):
        assert torch.equal(cold.reward, hot.reward) and torch.equal(cold.p_done, hot.p_done)


def test_imagining_and_observing_are_differentiable_in_action_and_z(memory):
    """Against finite differences; every one of them moves the state, the reward and the end."""
    def imagine(z, action, next_z, next_action):
        state = observe(memory, initial(memory, z), action, next_z)
        imagined = memory.imagine(state, next_action, 0.8, noise(memory))
        return state.features, imagined.state.features, imagined.reward, imagined.p_done

    inputs = [torch.randn(B, n, dtype=torch.float64, requires_grad=True) for n in (Z, A, Z, A)]
    if smooth(memory) and not chooses(memory):
        assert torch.autograd.gradcheck(imagine, inputs)
    _, *imagined = imagine(*inputs)
    for value in imagined:
        for gradient in torch.autograd.grad(value.sum(), inputs, retain_graph=True):
            assert gradient.isfinite().all() and (gradient != 0).any(1).all()


@pytest.mark.parametrize("temperature", (0.5, 1.0, 1.3))
@pytest.mark.parametrize("plain", (False, True), ids=("its own", "plain"))
@torch.no_grad()
def test_a_dreamer_dreams_what_is_imagined(memory, plain, temperature):
    """Features, rewards and ends, step by step, under actions made of the features; also after some dreams ended."""
    dreamer = PlainDreamer(memory, temperature) if plain else memory.dreamer(B, temperature)
    dreamer.load(watched(memory))                                   # which leaves nothing behind
    dreamer.features()
    dreamer.step(torch.randn(A, B).double(), {part: n.t() for part, n in noise(memory, 9).items()})
    for start in (initial(memory, torch.randn(B, Z).double()), watched(memory)):
        dreamer.load(start)
        state, kept, weight = start, torch.arange(B), torch.randn(A, B, state_size(memory)).double()
        for t in range(12):
            ones = torch.ones(1, len(kept)).double()
            torch.testing.assert_close(dreamer.features(), torch.cat([state.features.t(), ones]))
            action = (weight[:, kept] * state.features).sum(2).tanh()
            chance = {part: numbers[kept] for part, numbers in noise(memory, t).items()}
            imagined = memory.imagine(state, action.t(), temperature, chance)
            found = dreamer.step(action, {part: numbers.t() for part, numbers in chance.items()})
            for a, b in zip(found, (imagined.reward, imagined.p_done, imagined.uncertainty), strict=True):
                torch.testing.assert_close(a, b)
            state = imagined.state
            if t == 6:
                index = torch.tensor([2, 0])
                dreamer.select(index)
                state, kept = state.select(index), kept[index]
        dreamer = PlainDreamer(memory, temperature) if plain else memory.dreamer(B, temperature)


def state_size(memory):
    return sum(memory.feature_sizes.values())


def test_rollouts_do_not_know_each_other(memory):
    state, action, z = watched(memory), torch.randn(B, A).double(), torch.randn(B, Z).double()
    index = torch.tensor([2, 0, 0])
    together = observe(memory, state, action, z).select(index)
    apart = memory.observe(state.select(index), action[index], z[index],
                           {part: n[index] for part, n in noise(memory, 22, of="observe").items()})
    torch.testing.assert_close(apart.features, together.features)


def test_the_past_and_the_action_matter(memory):
    state, z = watched(memory), torch.randn(B, Z).double()
    a, b = (observe(memory, state, torch.full((B, A), x).double(), z).features for x in (-1.0, 1.0))
    assert (a != b).any()
    other = observe(memory, watched(memory), torch.full((B, A), -1.0).double(), z).features
    assert (a != other).any()


def test_the_loss_gives_every_parameter_a_gradient(memory):
    loss, metrics, carry = memory.loss(transitions([(0, 0), (1, 5)]), None, torch.Generator())
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in memory.parameters())
    assert loss.dim() == 0 and all(value.dim() == 0 and value.isfinite() for value in metrics.values())
    assert metrics["loss"].item() == loss.item()


def test_the_losss_gradient_reaches_every_z_and_action(memory):
    """Against finite differences: V can be trained through it, by what M reads and by what M is to predict."""
    batch = transitions([(0, 0), (1, 5)])
    z, action = torch.randn(B, 6, Z, dtype=torch.float64, requires_grad=True), batch.action[:, 3:8].requires_grad_()
    rest = [t[:, 3:8] for t in (batch.reward, batch.terminated, batch.restart)]

    def loss(z, action):
        return memory.loss(Transitions(z[:, :-1], action, z[:, 1:], *rest), None, torch.Generator())[0]

    if smooth(memory):
        assert torch.autograd.gradcheck(loss, (z, action))
    for gradient in torch.autograd.grad(loss(z, action), (z, action)):
        assert (gradient != 0).all()


def draws_in_turn(memory):
    """Whether members draw one after the other within a window, so that halves of it draw other numbers."""
    return infers(memory) and hasattr(memory.config, "members")


def test_the_loss_of_two_windows_equals_that_of_the_whole(memory):
    if draws_in_turn(memory):
        pytest.skip("its members draw in turn")
    batch = transitions([(0, 3), (1, 6), (2, 9)])
    whole, _, _ = memory.loss(batch, None, torch.Generator())
    generator = torch.Generator()
    first, _, carry = memory.loss(Transitions(*(t[:, :6] for t in batch)), None, generator)
    second, _, _ = memory.loss(Transitions(*(t[:, 6:] for t in batch)), carry, generator)
    assert whole.item() == pytest.approx((first.item() + second.item()) / 2)
    assert not any(t.requires_grad for t in carry)


def test_a_restart_forgets_what_came_before(memory):
    """The loss of two episodes in one stream equals that of each on its own."""
    if draws_in_turn(memory):
        pytest.skip("its members draw in turn")
    batch = transitions([(b, t) for b in range(B) for t in (0, 5)])
    whole, _, _ = memory.loss(batch, None, torch.Generator())
    generator = torch.Generator()
    first, _, carry = memory.loss(Transitions(*(t[:, :5] for t in batch)), None, generator)
    drawn = generator.get_state()
    for before in (None, carry):
        generator.set_state(drawn)
        second, _, _ = memory.loss(Transitions(*(t[:, 5:] for t in batch)), before, generator)
        assert whole.item() == pytest.approx((5 * first.item() + 7 * second.item()) / 12)


@pytest.fixture(scope="module", params=KINDS)
def toy_memory(request, toy_latents, tmp_path_factory):
    """A memory trained on the toy world, its latent the position one-hot; a few seconds."""
    torch.manual_seed(0)
    cls, common = KINDS[request.param], {"steps": 500, "learning_rate": 2e-2}
    config = cls.Config(batch=16, sequence=20, final_anneal=0.5, **common | ON_TOY[request.param])
    memory = cls(config, POSITIONS, 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)            # for so small a memory two take 30 times as long where the cores are busy
    try:
        train_memory(memory, toy_latents, Run(tmp_path_factory.mktemp("memory")), {}, 0)
    finally:
        torch.set_num_threads(threads)
    return memory


def walk(memory, positions):
    """The state after observing a walk through these positions."""
    z = torch.eye(POSITIONS)[positions]
    state = initial(memory, z[:1])
    for before, after, arrived in zip(positions, positions[1:], z[1:]):
        state = observe(memory, state, torch.tensor([[float(after - before)]]), arrived[None])
    return state


def expect(memory, positions, action):
    """What the memory expects of one more step, over draws: latent, reward, the probability of an end."""
    with torch.no_grad():
        state = walk(memory, positions).select(torch.zeros(200, dtype=torch.int64))
        imagined = memory.imagine(state, torch.full((200, 1), action), 1.0, noise(memory, batch=200))
    return memory.latent(imagined.state).mean(0), imagined.reward.mean().item(), imagined.p_done.mean().item()


@pytest.mark.parametrize("path", ([4, 5, 6], [6, 7, 6, 7, 8, 9], [7, 8, 9, 10, 11, 10, 11, 12]), ids=str)
def test_the_step_to_come_is_learnt_where_it_happens(toy_memory, path):
    """Reward and next latent are those of the step from here by this action: one step off, and both would be a position
    wrong."""
    for action, arrival in ((1.0, path[-1] + 1), (-1.0, path[-1] - 1)):
        z, reward, p_done = expect(toy_memory, path, action)
        assert reward == pytest.approx(arrival, abs=0.45)
        assert int(z.argmax()) == arrival
        assert p_done < 0.5


def test_the_end_is_learnt_at_the_step_that_arrives_there(toy_memory):
    path = [10, 11, 12, 13, 14]
    assert expect(toy_memory, path, 1.0)[2] > 0.5       # 14 -> 15 ends it
    assert expect(toy_memory, path, -1.0)[2] < 0.5
    assert expect(toy_memory, path[:-1], 1.0)[2] < 0.5  # 13 -> 14 does not
    assert expect(toy_memory, path[:-2], 1.0)[2] < 0.5
