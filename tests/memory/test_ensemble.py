"""The ensemble against single memories of its members' weights, stepped by hand; its samples of the episodes; and what
its disagreement knows of the data it was trained on (a few seconds)."""

from collections import Counter
from dataclasses import fields
from itertools import islice

import numpy as np
import pytest
import torch

from tests.conftest import counted_episode, make_latents
from tests.memory.test_memories import SMALL, VARIANTS, A, B, Z, initial, make, noise, observe, transitions, watched
from tests.memory.test_rssm_worlds import episodes, small, trained
from worldmodels.memory import MEMORIES, Ensemble
from worldmodels.memory.ensemble import EnsembleConfig
from worldmodels.memory.gru import GRUConfig
from worldmodels.memory.heads import DISAGREEMENT, MemoryConfig
from worldmodels.memory.rssm import RSSMConfig
from worldmodels.types import State, Transitions, UserError

K = SMALL["ensemble"]["members"]
CATEGORICAL = RSSMConfig(hidden_size=5, stochastic_size=3, classes=4, units=7, latents="categorical", free_nats=0.01)
SETTINGS = VARIANTS["ensemble"] | {"of categorical RSSMs": {"member": CATEGORICAL}}
every_variant = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


def single_members(ensemble):
    """Each member as a memory of its own."""
    stacked = ensemble.of_members.named_parameters()
    weights = {name.removeprefix("memory."): weight.detach() for name, weight in stacked}
    config = ensemble.of_members.memory.config
    members = []
    for k in range(ensemble.config.members):
        members.append(MEMORIES[config.kind](config, Z, A).double())
        members[-1].load_state_dict({name: weight[k] for name, weight in weights.items()})
    return members


def make_identical(ensemble):
    """All members get the weights of the first."""
    for weight in ensemble.parameters():
        weight.data[:] = weight.data[:1].clone()


def of_member(state, k):
    """The member k's part of an ensemble's state."""
    _, features, *inner = state.inner
    return State(features[:, k], tuple(t[:, k] for t in inner))


def split_noise(ensemble, chance):
    """The members' own noise, and that of the correction which follows."""
    size, start = ensemble.member_noise, "corrected "
    mine = {part: chance[part] for part in (*size.uniform, *size.normal)}
    return mine, {part.removeprefix(start): n for part, n in chance.items() if part.startswith(start)}


def assert_is(state, members):
    """That a state is made of these of its members."""
    for k, member in enumerate(members):
        torch.testing.assert_close(of_member(state, k), member)
    torch.testing.assert_close(state.features, members[0].features)


def test_members_have_what_all_memories_have_from_the_ensemble():
    config = EnsembleConfig(steps=7, reward_weight=0.3, done_positive_weight=5.0, death="threshold",
                            member=GRUConfig(hidden_size=5, steps=9, reward_weight=2.0))
    member = Ensemble(config, Z, A).of_members.memory.config
    assert member.kind == "gru" and member.hidden_size == 5
    shared = [field.name for field in fields(MemoryConfig) if field.name != "kind"]
    assert all(getattr(member, name) == getattr(config, name) for name in shared)


def test_its_parameters_are_those_of_as_many_memories_each_with_initial_weights_of_its_own():
    ensemble = Ensemble(EnsembleConfig(members=4, member=GRUConfig(hidden_size=5)), Z, A)
    single = MEMORIES["gru"](GRUConfig(hidden_size=5), Z, A)
    assert sum(p.numel() for p in ensemble.parameters()) == 4 * sum(p.numel() for p in single.parameters())
    for weight in ensemble.parameters():
        assert all((weight[i] != weight[j]).any() for i in range(4) for j in range(i))


@every_variant
def test_members_observe_as_single_memories_do(settings):
    ensemble, batch = make("ensemble", settings), transitions()
    members, chance = single_members(ensemble), noise(ensemble, 5, of="observe")
    state = initial(ensemble, batch.z[:, 0])
    states = [initial(member, batch.z[:, 0]) for member in members]
    assert_is(state, states)
    for t in range(3):
        state = ensemble.observe(state, batch.action[:, t], batch.next_z[:, t], chance)
        states = [m.observe(s, batch.action[:, t], batch.next_z[:, t], chance) for m, s in zip(members, states)]
        assert_is(state, states)
        state = ensemble.correct(state, batch.z[:, -1], chance)
        states = [m.correct(s, batch.z[:, -1], chance) for m, s in zip(members, states)]
        assert_is(state, states)


@every_variant
def test_a_step_is_that_of_the_member_drawn_and_all_members_go_on_from_its_z(settings):
    """z, reward and end are the drawn member's own; several steps, with another member in each row."""
    ensemble = make("ensemble", settings | {"member_per": "step"})
    members, state = single_members(ensemble), watched(ensemble)
    states = [of_member(state, k) for k in range(K)]
    for t in range(4):
        drawn = [(t + row) % K for row in range(B)]
        action, chance = torch.randn(B, A).double(), noise(ensemble, t)
        chance["member"] = (torch.tensor(drawn).double()[:, None] + 0.5) / K
        mine, of_correction = split_noise(ensemble, chance)
        imagined = ensemble.imagine(state, action, 0.8, chance)
        own = [m.imagine(s, action, 0.8, mine) for m, s in zip(members, states)]
        z = torch.stack([members[k].latent(own[k].state)[row] for row, k in enumerate(drawn)])
        states = [m.correct(found.state, z, of_correction) for m, found in zip(members, own)]
        state = imagined.state
        assert_is(state, states)
        torch.testing.assert_close(ensemble.latent(state), z)
        assert all(torch.equal(members[k].latent(of_member(state, k)), ensemble.latent(state)) for k in range(K))
        for name in ("reward", "p_done", "done"):
            expected = torch.stack([getattr(own[k], name)[row] for row, k in enumerate(drawn)])
            torch.testing.assert_close(getattr(imagined, name), expected)
        means = torch.stack([found.mean() for found in own], 1)
        torch.testing.assert_close(imagined.mean(), means.mean(1))
        torch.testing.assert_close(imagined.uncertainty, by_hand(means)[ensemble.config.disagreement])


@every_variant
def test_identical_members_do_not_disagree_and_imagine_as_one_does(settings):
    """Whichever is drawn. Their disagreement is nothing, but for the rounding of a mean."""
    ensemble = make("ensemble", settings)
    make_identical(ensemble)
    member, state, action = single_members(ensemble)[0], watched(ensemble), torch.randn(B, A).double()
    mine, of_correction = split_noise(ensemble, noise(ensemble))
    alone = member.imagine(of_member(state, 0), action, 0.8, mine)
    after = member.correct(alone.state, member.latent(alone.state), of_correction)
    for drawn in range(K):
        number = torch.full((B, 1), (drawn + 0.5) / K).double()
        imagined = ensemble.imagine(state, action, 0.8, noise(ensemble) | {"member": number})
        assert imagined.uncertainty.max() < 1e-15
        assert_is(imagined.state, [after] * K)
        torch.testing.assert_close(imagined.mean(), alone.mean())
        for name in ("reward", "p_done", "done"):
            torch.testing.assert_close(getattr(imagined, name), getattr(alone, name))


@pytest.mark.parametrize("member_per", ("step", "dream"))
def test_evenly_spread_noise_draws_each_member_equally_often(member_per):
    ensemble, many = make("ensemble", {"members": 5, "member_per": member_per}), 1000
    state = watched(ensemble).select(torch.zeros(many, dtype=torch.int64))
    chance = noise(ensemble, 0, many) | {"member": torch.arange(many).double()[:, None] / many}
    drawn = ensemble.imagine(state, torch.ones(many, A).double(), 1.0, chance).state.inner[0]
    assert torch.equal(drawn[:, 0].long(), torch.arange(many) // 200)


@pytest.mark.parametrize("members", (2, 3, 5, 7, 100))
def test_the_greatest_number_below_one_draws_the_last_member(members):
    ensemble = make("ensemble", {"members": members}).float()
    state = ensemble.initial(torch.zeros(1, Z))
    chance = noise(ensemble, 0, 1) | {"member": torch.full((1, 1), 1 - 2**-24)}
    assert ensemble.imagine(state, torch.zeros(1, A), 1.0, chance).state.inner[0].item() == members - 1


def chain_of_draws(ensemble, state, numbers):
    """The members drawn in steps with these numbers, and the last state."""
    drawn = []
    for t, number in enumerate(numbers):
        chance = noise(ensemble, t) | {"member": torch.tensor(number).double()[:, None]}
        state = ensemble.imagine(state, torch.ones(B, A).double(), 1.0, chance).state
        drawn.append(state.inner[0][:, 0].long().tolist())
    return drawn, state


def test_a_member_per_step_is_drawn_anew_in_each():
    ensemble = make("ensemble", {"member_per": "step"})
    assert chain_of_draws(ensemble, watched(ensemble), ([0.1, 0.5, 0.9], [0.9, 0.9, 0.1]))[0] == [[0, 1, 2], [2, 2, 0]]


def test_a_member_per_dream_dreams_on_until_something_real_is_seen():
    ensemble = make("ensemble", {"member_per": "dream"})
    action, z = torch.ones(B, A).double(), torch.randn(B, Z).double()
    first, then, again = [0.1, 0.5, 0.9], [0.9, 0.9, 0.1], [0.5, 0.1, 0.1]
    drawn, state = chain_of_draws(ensemble, watched(ensemble), (first, then, again))
    assert drawn == [[0, 1, 2]] * 3
    for seen in (observe(ensemble, state, action, z), ensemble.correct(state, z), initial(ensemble, z)):
        assert chain_of_draws(ensemble, seen, (then, again))[0] == [[2, 2, 0]] * 2


def test_a_dream_that_goes_on_beside_new_ones_keeps_its_member():
    ensemble = make("ensemble", {"member_per": "dream"})
    _, state = chain_of_draws(ensemble, watched(ensemble), ([0.1, 0.5, 0.9],))
    fresh = initial(ensemble, torch.randn(1, Z).double())
    state = State.cat([state.select(torch.tensor([2, 1])), fresh])
    assert chain_of_draws(ensemble, state, ([0.1, 0.1, 0.1],))[0] == [[2, 1, 0]]


# loss

@every_variant
def test_the_loss_is_the_mean_of_the_members_own_each_on_its_streams(settings):
    """With its gradients, in two windows; a member carries what it would alone."""
    ensemble = make("ensemble", settings)
    members, generator, own_generator = single_members(ensemble), torch.Generator(), torch.Generator()
    carry, carries = None, [None] * K
    for restart in ([(0, 0), (1, 5), (2, 0)], [(1, 3)]):
        batch = Transitions(*map(torch.cat, zip(transitions(restart), transitions(restart))))
        chunks = list(zip(*(t.chunk(K) for t in batch)))
        loss, metrics, carry = ensemble.loss(batch, carry, generator)
        own, parts, carries = zip(*(
            member.loss(Transitions(*mine), before, own_generator)
            for member, mine, before in zip(members, chunks, carries)))
        torch.testing.assert_close(loss, sum(own) / K)
        for name, value in metrics.items():
            torch.testing.assert_close(value, sum(part[name] for part in parts) / K)
        torch.testing.assert_close(carry, sum(carries, ()))
        gradients = torch.autograd.grad(loss, [*ensemble.parameters()])
        expected = (torch.autograd.grad(value, [*member.parameters()]) for value, member in zip(own, members))
        for gradient, by_member in zip(gradients, zip(*expected), strict=True):
            torch.testing.assert_close(gradient, torch.stack(by_member) / K)


def test_a_member_learns_from_its_own_streams_only():
    ensemble, batch = make("ensemble", {}), transitions()
    loss, *_ = ensemble.loss(batch, None, torch.Generator())
    batch.next_z[1] += 1                                        # of the second member's one stream
    other, *_ = ensemble.loss(batch, None, torch.Generator())
    for a, b in zip(*(torch.autograd.grad(value, [*ensemble.parameters()]) for value in (loss, other))):
        assert [torch.equal(x, y) for x, y in zip(a, b)][::2] == [True, True]
    assert (a[1] != b[1]).any()                                 # the head's bias


# disagreement

def by_hand(means):
    """The three disagreements of means [B, K, D], rollout by rollout."""
    found = {"std": [], "deviation": [], "pair": []}
    for mu in means.detach().numpy():
        K, D = mu.shape
        centre = [sum(mu[k][d] for k in range(K)) / K for d in range(D)]
        variances = [sum((mu[k][d] - centre[d])**2 for k in range(K)) / K for d in range(D)]
        length = lambda v: sum(x**2 for x in v)**0.5
        found["std"].append((sum(variances) / D)**0.5)
        found["deviation"].append(max(length(mu[k] - centre) for k in range(K)))
        found["pair"].append(max(length(mu[i] - mu[j]) for i in range(K) for j in range(i)))
    return {name: torch.tensor(np.array(values)) for name, values in found.items()}


@pytest.mark.parametrize("name", DISAGREEMENT)
def test_disagreements_are_those_of_their_formulas(name):
    means = torch.randn(6, 5, 3).double()
    torch.testing.assert_close(DISAGREEMENT[name](means), by_hand(means)[name])


@pytest.mark.parametrize("name, expected", (("std", 5 / 2**0.5 / 2), ("deviation", 2.5), ("pair", 5.0)))
def test_disagreements_of_two_points_five_apart(name, expected):
    """(0, 0) and (3, 4)."""
    assert DISAGREEMENT[name](torch.tensor([[[0.0, 0.0], [3.0, 4.0]]])).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", DISAGREEMENT)
def test_disagreements_do_not_depend_on_the_members_order_or_place_and_grow_with_their_distance(name):
    means, f = torch.randn(6, 5, 3).double(), DISAGREEMENT[name]
    torch.testing.assert_close(f(means[:, torch.randperm(5)] + 7), f(means))
    torch.testing.assert_close(f(3 * means), 3 * f(means))


# samples of the episodes

EPISODES, STEPS, BATCH, SEQUENCE = 12, 4, 2, 6      # of each sample, 48 steps: 4 windows an epoch without a rest


@pytest.fixture(scope="module")
def equal_latents(tmp_path_factory):
    """Episodes of one length whose latents name their episode and time."""
    return make_latents(tmp_path_factory.mktemp("equal"), [counted_episode(e, STEPS) for e in range(EPISODES)])


def bootstrap_windows(latents, count, skip=0, seed=0, batch=BATCH, sequence=SEQUENCE):
    return list(islice(latents.windows(batch, sequence, seed, skip, bootstraps=K), count))


def samples(windows):
    """How often each member saw the first step of each episode."""
    begun = [Counter() for _ in range(K)]
    for window in windows:
        for k, (z, restart) in enumerate(zip(window.z.chunk(K), window.restart.chunk(K))):
            episode, t = (10 * z).round().long().unbind(-1)
            begun[k].update(episode[t == 0].tolist())
            assert restart[t == 0].all()
    return begun


def test_a_window_has_a_batch_of_streams_for_each_member(equal_latents):
    for window in bootstrap_windows(equal_latents, 5):
        assert window.z.shape == (K * BATCH, SEQUENCE, 2) and window.restart.shape == (K * BATCH, SEQUENCE)
        episode, t = (10 * window.z).round().long().unbind(-1)
        assert torch.equal(window.reward, 100.0 * episode + t)


def test_each_member_sees_its_own_sample_of_the_episodes_drawn_with_replacement(equal_latents):
    """The same in every epoch, in another order: as many episodes as there are, some of them several times."""
    windows = bootstrap_windows(equal_latents, 12)
    epochs = [samples(windows[first:first + 4]) for first in (0, 4, 8)]
    assert epochs[0] == epochs[1] == epochs[2]
    for sample in epochs[0]:
        assert sum(sample.values()) == EPISODES and len(sample) < EPISODES and max(sample.values()) > 1
    assert all(epochs[0][i] != epochs[0][j] for i in range(K) for j in range(i))
    assert any(not torch.equal(a.reward, b.reward) for a, b in zip(windows[:4], windows[4:8]))


def test_samples_are_a_function_of_the_seed(equal_latents):
    first, same, other = (samples(bootstrap_windows(equal_latents, 4, seed=seed)) for seed in (0, 0, 1))
    assert first == same and first != other


def test_episodes_are_drawn_uniformly(equal_latents):
    """By 200 seeds, 600 samples: each episode 600 times, with a standard deviation of 23."""
    total = sum((sum(samples(bootstrap_windows(equal_latents, 4, seed=seed)), Counter()) for seed in range(200)),
                Counter())
    assert all(abs(total[episode] - 600) < 4 * 23.5 for episode in range(EPISODES))


@pytest.mark.parametrize("skip", (1, 3, 4, 9))
def test_skipping_gives_the_windows_that_would_have_followed(counted_latents, skip):
    """Of episodes of several lengths, so that the members' epochs have different numbers of windows."""
    for a, b in zip(bootstrap_windows(counted_latents, 20, sequence=4)[skip:],
                    bootstrap_windows(counted_latents, 20 - skip, skip, sequence=4), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b))


def test_an_ensemble_asks_for_as_many_samples_as_it_has_members():
    assert EnsembleConfig(members=7).bootstraps == 7 and GRUConfig().bootstraps == 0


# what disagreement knows

SEEN, UNSEEN = (-1.0, 0.3), (0.6, 1.6)


def walks(generator, batch=200, steps=10):
    """z is a place on a line, moved by a fifth of the action, and held within what is SEEN."""
    low, high = SEEN
    action = 2 * torch.rand(batch, steps, 1, generator=generator) - 1
    z = [low + (high - low) * torch.rand(batch, 1, generator=generator)]
    for a in action.unbind(1):
        z.append((z[-1] + 0.2 * a).clamp(low, high))
    return episodes(torch.stack(z, 1), action)


@torch.no_grad()
def disagreement(memory, low, high, many=1000):
    """Its mean in first steps from places between `low` and `high`."""
    generator = torch.Generator().manual_seed(2)
    z, action = torch.rand(2, many, 1, generator=generator)
    state = memory.initial(low + (high - low) * z, noise(memory, 0, many, "observe"))
    return memory.imagine(state, 2 * action - 1, 1.0, noise(memory, 1, many)).uncertainty.mean().item()


def of_samples(data, members, streams):
    """Batches for `members`, each of its own sample of the episodes `data`, drawn with replacement."""
    count = len(data.z)
    sample = torch.randint(count, (members, count), generator=torch.Generator().manual_seed(3))

    def batch(generator):
        rows = torch.randint(count, (members, streams), generator=generator)
        return Transitions(*(t[sample.gather(1, rows).flatten()] for t in data))

    return batch


def test_members_disagree_more_where_there_was_no_data():
    """Measured: 0.112 before training; 0.009 where there was data, 0.034 where not, 3.7 times as much. With other
    initial weights 3.9 to 6.4 times."""
    torch.manual_seed(0)
    ensemble = Ensemble(EnsembleConfig(members=5, member=GRUConfig(hidden_size=16)), 1, 1)
    untrained = disagreement(ensemble, *SEEN)
    trained(ensemble, of_samples(walks(torch.Generator().manual_seed(1)), 5, 16), 250)
    seen, unseen = disagreement(ensemble, *SEEN), disagreement(ensemble, *UNSEEN)
    assert seen < untrained / 4
    assert unseen / seen > 2


@pytest.mark.parametrize("latents", ("gaussian", "categorical"))
def test_priors_come_to_agree_where_there_was_data(latents):
    """Measured: 0.146 before training and 0.010 after (categorical: 0.029 and 0.006). Where there was no data priors
    disagree 1.0 to 3.2 times as much as where there was, by the initial weights: too little to rely on here."""
    memory = small(prior_heads=5, latents=latents)
    untrained = disagreement(memory, *SEEN)
    trained(memory, of_samples(walks(torch.Generator().manual_seed(1)), 1, 16), 300)
    assert disagreement(memory, *SEEN) < untrained / 2


def test_an_ensemble_of_ensembles_is_refused_in_one_line():
    with pytest.raises(UserError, match="no ensembles"):
        Ensemble(EnsembleConfig(member=EnsembleConfig()), Z, A)
