"""The RSSM against the equations of its module and against its own single steps."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from tests.memory.test_memories import VARIANTS, A, B, T, Z, make, noise, observe, transitions, watched
from worldmodels.memory import RSSM, rssm
from worldmodels.memory.rssm import RSSMConfig
from worldmodels.types import State

SETTINGS = VARIANTS["rssm"]
RESTARTS = [(0, 0), (0, 7), (1, 0), (2, 0), (2, 3), (2, 7)]
every_variant = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
both_latents = pytest.mark.parametrize("latents", ("gaussian", "categorical"))


# the equations by hand

def mlp(network, x):
    """One hidden layer."""
    first, _, last = network
    return F.relu(x @ first.weight.t() + first.bias) @ last.weight.t() + last.bias


def distribution(memory, parameters, temperature=1.0):
    """The distribution of s, as torch has it."""
    if memory.config.latents == "gaussian":
        mean, raw = parameters.chunk(2, -1)
        return Independent(Normal(mean, temperature**0.5 * (2 * torch.sigmoid(raw / 2) + 0.1)), 1)
    classes = memory.config.classes
    logits = parameters.unflatten(-1, (memory.config.stochastic_size, classes))
    return Independent(Categorical(probs=0.99 * torch.softmax(logits / temperature, -1) + 0.01 / classes), 1)


def mean_of(memory, parameters):
    s = distribution(memory, parameters)
    return s.mean if memory.config.latents == "gaussian" else s.base_dist.probs.flatten(-2)


def s_by_hand(memory, parameters, temperature, chance):
    """s of its distribution's parameters and of the noise."""
    if memory.config.paths == "deterministic":
        return mean_of(memory, parameters)
    s = distribution(memory, parameters, temperature)
    if memory.config.latents == "gaussian":
        return s.base_dist.loc + s.base_dist.scale * chance["s"]
    number = (s.base_dist.probs.cumsum(-1) < chance["s"][..., None]).sum(-1)
    return F.one_hot(number, memory.config.classes).double().flatten(-2)


def h_by_hand(memory, s, h, action):
    """f(h, s, a): a layer, and a GRU on it; without h that layer alone."""
    x = F.relu(torch.cat([s, action], 1) @ memory.input.weight.t() + memory.input.bias)
    if memory.config.paths == "stochastic":
        return x
    cell, H = memory.cell, memory.config.hidden_size
    from_x, from_h = x @ cell.weight_ih.t() + cell.bias_ih, h @ cell.weight_hh.t() + cell.bias_hh
    reset, update = torch.sigmoid(from_x[:, :H] + from_h[:, :H]), torch.sigmoid(from_x + from_h)[:, H:2 * H]
    candidate = torch.tanh(from_x[:, 2 * H:] + reset * from_h[:, 2 * H:])
    return (1 - update) * candidate + update * h


def heads_by_hand(memory, s, h):
    """z's mean, the reward, the done logit."""
    return mlp(memory.head, s if memory.config.paths == "stochastic" else torch.cat([s, h], -1)).split([Z, 1, 1], -1)


def features_of(memory, z, s, h):
    return torch.cat([z, s] if memory.config.paths == "stochastic" else [z, s, h], -1)


def test_its_number_of_parameters():
    """At the sizes of PlaNet and Dreamer V1, with the z of CarRacing."""
    Z, A, H, S, U = 32, 3, 200, 30, 200
    network = lambda inputs, outputs: (inputs + 1) * U + (U + 1) * outputs
    count = sum(p.numel() for p in RSSM(RSSMConfig(), Z, A).parameters())
    gru = 3 * H * (U + H + 2)
    assert count == (S + A + 1) * U + gru + network(H, 2 * S) + network(H + Z, 2 * S) + network(S + H, Z + 2) + Z
    assert count == 411_986


@every_variant
def test_an_observed_step_is_that_of_the_equations(settings):
    memory, z, action = make("rssm", settings), torch.randn(B, Z).double(), torch.randn(B, A).double()
    state, chance = watched(memory), noise(memory, 22, of="observe")
    _, s, h = state.inner
    h = h_by_hand(memory, s, h, action)
    s = s_by_hand(memory, mlp(memory.posterior, torch.cat([h, z], 1)), 1.0, chance)
    observed = memory.observe(state, action, z, chance)
    torch.testing.assert_close(observed.features, features_of(memory, z, s, h))
    torch.testing.assert_close(observed.inner, (z, s, h))


@every_variant
@pytest.mark.parametrize("temperature", (0.7, 1.0, 2.0))
def test_an_imagined_step_is_that_of_the_equations(settings, temperature):
    memory, action = make("rssm", settings), torch.randn(B, A).double()
    state, chance = watched(memory), noise(memory)
    _, s, h = state.inner
    h = h_by_hand(memory, s, h, action)
    number = [int(3 * u) for u in chance["prior_head"]] if "prior_head" in chance else [0] * B
    priors = [mlp(prior, h) for prior in memory.priors]
    s = s_by_hand(memory, torch.stack([priors[k][b] for b, k in enumerate(number)]), temperature, chance)
    mean, reward, logit = heads_by_hand(memory, s, h)
    z = mean + math.sqrt(temperature) * memory.log_sigma.exp() * chance["z"]
    expected, *_ = heads_by_hand(memory, sum(mean_of(memory, prior) for prior in priors) / len(priors), h)
    imagined = memory.imagine(state, action, temperature, chance)
    torch.testing.assert_close(imagined.state.features, features_of(memory, z, s, h))
    torch.testing.assert_close(imagined.state.inner, (z, s, h))
    torch.testing.assert_close(imagined.reward, reward[:, 0])
    torch.testing.assert_close(imagined.p_done, logit.sigmoid()[:, 0])
    torch.testing.assert_close(imagined.mean(), expected)


@every_variant
def test_an_episode_begins_with_what_its_first_z_tells_and_an_empty_h(settings):
    """Neither an old state nor an old action: there is none to give."""
    memory, z = make("rssm", settings), torch.randn(B, Z).double()
    chance = noise(memory, 21, of="observe")
    h = torch.zeros(B, 7 if memory.config.paths == "stochastic" else 6).double()
    s = s_by_hand(memory, mlp(memory.posterior, torch.cat([h, z], 1)), 1.0, chance)
    torch.testing.assert_close(memory.initial(z, chance).inner, (z, s, h))


def test_death_by_threshold_is_a_positive_logit():
    memory = make("rssm", {"death": "threshold"})
    for logit in (-1.0, 0.5):
        memory.head[2].weight.data[-1], memory.head[2].bias.data[-1] = 0, logit
        imagined = memory.imagine(watched(memory), torch.zeros(B, A).double(), 1.0, noise(memory))
        assert (imagined.p_done == float(logit > 0)).all()


# paths

@both_latents
def test_the_stochastic_path_keeps_nothing_but_s(latents):
    memory = make("rssm", {"latents": latents, "paths": "stochastic"})
    state, action, z = watched(memory), torch.randn(B, A).double(), torch.randn(B, Z).double()
    other = State(state.features, (torch.randn(B, Z).double(), state.inner[1], torch.randn(B, 7).double()))
    assert memory.feature_sizes.keys() == {"z", "s"} and memory.cell is None
    assert torch.equal(observe(memory, state, action, z).features, observe(memory, other, action, z).features)


@both_latents
def test_the_deterministic_path_draws_no_s(latents):
    memory = make("rssm", {"latents": latents, "paths": "deterministic"})
    assert memory.observe_noise.total() == (0, 0)
    assert {*memory.imagine_noise.uniform, *memory.imagine_noise.normal} == {"done", "z"}


# loss

def draw(memory, generator):
    """The noise of one draw of s, as the loss draws it."""
    random = torch.randn if memory.config.latents == "gaussian" else torch.rand
    return {"s": random(B, memory.of_s.noise_size, generator=generator, dtype=torch.float64)}


def step_by_step(memory, batch):
    """The loss's negative log-likelihood [B, T, Z], KL [B, T, heads] with its gradient weights, squared error of the
    reward [B, T] and cross-entropy [B, T], by `initial` and `observe` one step after the other."""
    generator, rows, config = torch.Generator(), [], memory.config
    state, balance = None, (config.kl_prior_weight, config.kl_posterior_weight)
    for t in range(T):
        restart = batch.restart[:, t].bool() | (t == 0)
        if restart.any():
            fresh = memory.initial(batch.z[:, t], draw(memory, generator))
            index = torch.arange(B) + B * restart
            state = State.cat([state, fresh]).select(index) if t else fresh
        state = memory.observe(state, batch.action[:, t], batch.next_z[:, t], draw(memory, generator))
        z, s, h = state.inner
        q = mlp(memory.posterior, torch.cat([h, z], 1))
        priors = [mlp(prior, h) for prior in memory.priors]
        kl = torch.stack([balanced(memory, q, p, *balance) for p in priors], 1)
        if config.paths == "deterministic":             # the posterior's mean has seen z
            s = torch.stack([memory.of_s.mean(p) for p in priors]).mean(0)
        mean, reward, logit = heads_by_hand(memory, s, h)
        nll = -Normal(mean, memory.log_sigma.exp()).log_prob(z)
        end, log_p, log_not = batch.terminated[:, t], F.logsigmoid(logit[:, 0]), F.logsigmoid(-logit[:, 0])
        done = -(config.done_positive_weight * end * log_p + (1 - end) * log_not)
        rows.append((nll, kl, (reward[:, 0] - batch.reward[:, t]).square(), done))
    return [torch.stack(column, 1) for column in zip(*rows)]


def balanced(memory, q, p, prior_weight, posterior_weight):
    """KL(q || p), whose gradient to p and that to q are weighted."""
    kl = lambda q, p: kl_divergence(distribution(memory, q), distribution(memory, p))
    weighted = prior_weight * kl(q.detach(), p) + posterior_weight * kl(q, p.detach())
    return weighted + (1 - prior_weight - posterior_weight) * kl(q, p).detach()


def loss_by_hand(memory, batch):
    config = memory.config
    nll, kl, reward, done = step_by_step(memory, batch)
    kl, free = kl.mean(2), torch.tensor(config.free_nats).double()
    counted = torch.maximum(kl, free).mean() if config.free_nats_per == "step" else torch.maximum(kl.mean(), free)
    loss = nll.mean() + (config.reward_weight * reward.mean() + counted) / Z + config.done_weight * done.mean()
    return loss, {"loss": loss, "nll": nll.mean(), "kl": kl.mean(), "reward_error": reward.mean(), "done": done.mean()}


def loss_of(memory, batch):
    return memory.loss(batch, None, torch.Generator())[0]


def gradients(memory, loss):
    return dict(zip(dict(memory.named_parameters()), torch.autograd.grad(loss, [*memory.parameters()])))


@every_variant
@pytest.mark.parametrize("more", (
    {}, {"kl_prior_weight": 0.8, "kl_posterior_weight": 0.2}, {"kl_posterior_weight": 0.1, "free_nats": 2.0},
    {"reward_weight": 0.5, "done_weight": 2.0, "done_positive_weight": 10.0}), ids=str)
def test_the_loss_and_its_gradients_are_those_of_single_steps(settings, more):
    """With restarts in the midst, some in one stream only and some in two at once."""
    memory, batch = make("rssm", settings | more), transitions(RESTARTS)
    loss, metrics, _ = memory.loss(batch, None, torch.Generator())
    expected, parts = loss_by_hand(memory, batch)
    torch.testing.assert_close(metrics, parts)
    torch.testing.assert_close(gradients(memory, loss), gradients(memory, expected))


@both_latents
def test_a_window_ends_with_the_s_and_h_of_its_last_step(latents):
    memory, batch, generator = make("rssm", {"latents": latents}), transitions(RESTARTS), torch.Generator()
    *_, (s, h) = memory.loss(batch, None, torch.Generator())
    state = None
    for t in range(T):
        if t in (0, 3, 7):
            fresh = memory.initial(batch.z[:, t], draw(memory, generator))
            index = torch.tensor([b + B * ((b, t) in RESTARTS) for b in range(B)])
            state = State.cat([state, fresh]).select(index) if t else fresh
        state = memory.observe(state, batch.action[:, t], batch.next_z[:, t], draw(memory, generator))
    torch.testing.assert_close((s, h), state.inner[1:])


@pytest.mark.parametrize("share", (0.8, 1.2), ids=("below the mean", "above it"))
@pytest.mark.parametrize("per", ("mean", "step"))
@both_latents
def test_free_nats_are_those_of_the_batchs_mean_or_of_each_step(latents, per, share):
    memory, batch = make("rssm", {"latents": latents, "free_nats": 0.0}), transitions(RESTARTS)
    _, kl, *_ = step_by_step(memory, batch)
    kl = kl[..., 0].detach()
    free = share * kl.mean().item()
    without = loss_of(memory, batch) - kl.mean() / Z
    memory.config = replace(memory.config, free_nats=free, free_nats_per=per)
    if per == "mean":
        counted = max(kl.mean().item(), free)
    else:
        counted = sum(max(nats, free) for nats in kl.flatten().tolist()) / kl.numel()
        assert kl.min() < free < kl.max()
    assert loss_of(memory, batch).item() == pytest.approx((without + counted / Z).item(), rel=1e-12)


@pytest.mark.parametrize("per", ("mean", "step"))
def test_free_nats_pull_at_no_prior(per):
    memory, batch = make("rssm", {"free_nats": 1e3, "free_nats_per": per}), transitions(RESTARTS)
    pulls = gradients(memory, loss_of(memory, batch))
    assert all((gradient == 0).all() == name.startswith("priors") for name, gradient in pulls.items())


@both_latents
def test_the_kls_gradients_to_the_prior_and_to_the_posterior_are_weighted_and_its_value_is_not(latents):
    memory, batch = make("rssm", {"latents": latents, "free_nats": 0.0}), transitions(RESTARTS)

    def weighted(prior, posterior):
        memory.config = replace(memory.config, kl_prior_weight=prior, kl_posterior_weight=posterior)
        loss = loss_of(memory, batch)
        return loss.item(), gradients(memory, loss)

    (value, neither), (plain, both), (balanced, some) = weighted(0.0, 0.0), weighted(1.0, 1.0), weighted(0.8, 0.2)
    assert value == pytest.approx(plain, rel=1e-12) and balanced == pytest.approx(plain, rel=1e-12)
    (_, to_prior), (_, to_posterior) = weighted(1.0, 0.0), weighted(0.0, 1.0)
    for name, rest in neither.items():
        by_prior, by_posterior = to_prior[name] - rest, to_posterior[name] - rest
        torch.testing.assert_close(both[name] - rest, by_prior + by_posterior)
        torch.testing.assert_close(some[name] - rest, 0.8 * by_prior + 0.2 * by_posterior)
        if name.startswith("priors"):
            assert by_prior.any() and not by_posterior.any() and not rest.any()
        if name.startswith("posterior"):
            assert by_posterior.any() and rest.any()


@every_variant
def test_the_action_before_a_restart_does_not_matter_after_it(settings):
    """Nor does anything else that was carried there; where an episode goes on, it does."""
    memory, first = make("rssm", settings), transitions()
    other = first._replace(action=first.action.clone())
    other.action[:, -1] += 1
    carries = [memory.loss(batch, None, torch.Generator())[2] for batch in (first, other)]
    for restart, same in (([(b, 0) for b in range(B)], True), ([], False)):
        batch = transitions(restart)
        a, b = (memory.loss(batch, carry, torch.Generator())[0].item() for carry in carries)
        assert (a == b) == same


@both_latents
def test_scheduled_sampling_goes_on_from_what_the_prior_draws(latents, monkeypatch):
    """At its own steps; the posterior of those steps is what it learns from, and what the next window begins with."""
    memory, batch, generator = make("rssm", {"latents": latents}), transitions(), torch.Generator()
    memory.config = replace(memory.config, scheduled_sampling=1.0)
    own = torch.arange(T - 1)[:, None] % 3 != torch.arange(B)               # some steps of each stream
    monkeypatch.setattr(rssm, "own_steps", lambda share, restart, generator: own)
    h, s, *_ = memory._follow(batch, None, torch.Generator())
    state = None
    for t in range(T):
        if t:
            prior = memory.of_s.sample(memory.priors[0](state.inner[2]), 1.0, draw(memory, generator)["s"])
            going_on = torch.where(own[t - 1][:, None], prior.detach(), state.inner[1])
        else:
            going_on = memory.initial(batch.z[:, 0], draw(memory, generator)).inner[1]
            state = State(None, (None, None, torch.zeros(B, memory.h_size).double()))
        before = State(None, (None, going_on, state.inner[2]))
        state = memory.observe(before, batch.action[:, t], batch.next_z[:, t], draw(memory, generator))
    torch.testing.assert_close((s[-1], h[-1]), state.inner[1:])
    # no gradient through the draws
    learnt = [p for name, p in memory.named_parameters() if name.startswith(("input", "cell", "posterior"))]
    of = lambda s, h: torch.autograd.grad(s.square().sum() + h.square().sum(), learnt)
    torch.testing.assert_close(of(s[-1], h[-1]), of(*state.inner[1:]))


# temperature

def linear_head(memory):
    """Makes the head linear: no unit of its hidden layer is ever zero."""
    first, _, last = memory.head
    first.bias.data += 1e3
    last.bias.data -= last.weight.data @ torch.full_like(first.bias.data, 1e3)


def test_the_temperature_scales_the_variances_of_s_and_of_z():
    """Exactly so: at tau = 4 each draw lies twice as far from its mean as the same draw at tau = 1."""
    memory, action = make("rssm", {}), torch.randn(B, A).double()
    linear_head(memory)
    state, chance = watched(memory), noise(memory)
    cold, hot = (memory.imagine(state, action, tau, chance) for tau in (1.0, 4.0))
    s_mean, _ = memory.priors[0](cold.state.inner[2]).chunk(2, -1)
    assert torch.equal(cold.mean(), hot.mean())
    torch.testing.assert_close(hot.state.inner[1] - s_mean, 2 * (cold.state.inner[1] - s_mean))
    torch.testing.assert_close(hot.state.inner[0] - hot.mean(), 2 * (cold.state.inner[0] - cold.mean()))


def test_the_variance_of_many_imagined_z_is_four_times_as_large_at_four_times_the_temperature():
    memory, many = make("rssm", {}), 20_000
    linear_head(memory)
    state = watched(memory).select(torch.zeros(many, dtype=torch.int64))
    z = [memory.latent(memory.imagine(state, torch.ones(many, A).double(), tau, noise(memory, seed, many)).state)
         for seed, tau in enumerate((1.0, 4.0))]
    torch.testing.assert_close(z[1].var(0) / z[0].var(0), torch.full((Z,), 4.0).double(), rtol=0.08, atol=0)


def test_a_higher_temperature_makes_rare_classes_less_rare():
    memory, many = make("rssm", {"latents": "categorical"}), 20_000
    state = watched(memory).select(torch.zeros(many, dtype=torch.int64))
    action = torch.ones(many, A).double()
    h = memory.imagine(state, action, 1.0, noise(memory, 0, many)).state.inner[2]
    for tau in (0.5, 1.0, 4.0):
        p = distribution(memory, memory.priors[0](h[0]), tau).base_dist.probs.flatten()
        s = memory.imagine(state, action, tau, noise(memory, 1, many)).state.inner[1]
        assert ((s.mean(0) - p).abs() < 5 * (p * (1 - p) / many)**0.5).all()


# prior heads

@both_latents
def test_one_prior_is_never_uncertain(latents):
    memory = make("rssm", {"latents": latents})
    assert not memory.imagine(watched(memory), torch.ones(B, A).double(), 1.0, noise(memory)).uncertainty.any()


@pytest.mark.parametrize("disagreement", ("std", "deviation", "pair"))
@both_latents
def test_priors_are_uncertain_where_their_means_of_s_differ_and_copies_are_not(latents, disagreement):
    memory = make("rssm", {"latents": latents, "prior_heads": 3, "disagreement": disagreement})
    state, action = watched(memory), torch.ones(B, A).double()
    imagined = memory.imagine(state, action, 1.0, noise(memory))
    means = [mean_of(memory, prior(imagined.state.inner[2])) for prior in memory.priors]
    middle = sum(means) / 3
    expected = {
        "std": (sum((m - middle).square() for m in means) / 3).mean(1).sqrt(),
        "deviation": torch.stack([(m - middle).square().sum(1).sqrt() for m in means]).amax(0),
        "pair": torch.stack([(a - b).square().sum(1).sqrt() for a in means for b in means]).amax(0)}
    torch.testing.assert_close(imagined.uncertainty, expected[disagreement])
    for prior in memory.priors:
        prior.load_state_dict(memory.priors[0].state_dict())
    assert memory.imagine(state, action, 1.0, noise(memory)).uncertainty.max() < 1e-15


def test_the_prior_of_a_step_is_drawn_evenly_by_noise():
    memory, many = make("rssm", {"prior_heads": 3, "paths": "deterministic"}), 300
    state = watched(memory).select(torch.zeros(many, dtype=torch.int64))
    chance = noise(memory, 0, many) | {"prior_head": (torch.arange(many).double()[:, None] + 0.5) / many}
    _, s, h = memory.imagine(state, torch.ones(many, A).double(), 1.0, chance).state.inner
    for k, rows in enumerate(torch.arange(many).chunk(3)):
        torch.testing.assert_close(s[rows], mean_of(memory, memory.priors[k](h[rows])))


def test_every_prior_learns_the_same_posterior():
    """The KL is the mean of that to each: a step towards less of it brings all priors nearer."""
    memory, batch = make("rssm", {"prior_heads": 3, "free_nats": 0.0}), transitions(RESTARTS)
    before = step_by_step(memory, batch)[1].mean((0, 1)).detach()
    pulls = gradients(memory, loss_of(memory, batch))
    with torch.no_grad():
        for name, parameter in memory.named_parameters():
            if name.startswith("priors"):
                parameter -= 1e-3 * pulls[name]
    assert (step_by_step(memory, batch)[1].mean((0, 1)) < before).all()
