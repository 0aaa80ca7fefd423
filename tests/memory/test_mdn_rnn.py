"""The MDN-RNN against the paper's numbers, and its loss against its own single steps."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.memory.test_memories import VARIANTS, A, B, T, Z, make, noise, transitions, watched
from tests.memory.test_mixture import torchs_log_prob
from worldmodels.memory import MDNRNN, MDNRNNConfig, mdn_rnn, mixture
from worldmodels.training import cpu_has_bfloat16
from worldmodels.types import Transitions


@pytest.fixture(params=VARIANTS["mdn_rnn"].values(), ids=lambda settings: ", ".join(settings) or "plain")
def memory(request):
    return make("mdn_rnn", request.param)


def head(memory, state, action):
    """What the head puts out as `action` is taken in `state`, worked out by hand."""
    z, h, c, restart = state.inner
    x = torch.cat([z, action, restart], 1)[:, :memory.lstm.input.in_features]
    h, _ = memory.lstm.step(x, h, c)
    if memory.config.head_size:
        h = F.relu(F.linear(torch.cat([h, x], 1), memory.between.weight, memory.between.bias))
    return F.linear(h, memory.head.weight, memory.head.bias)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_car_racing_has_the_papers_number_of_parameters():
    """422,368, and the reward and done heads beside them."""
    assert parameters(MDNRNN(MDNRNNConfig(hidden_size=256), 32, 3)) - 2 * (256 + 1) == 422_368


def test_take_cover_has_the_papers_number_of_parameters():
    """1,678,785 with the restart flag and the done head, and the reward head beside them."""
    memory = MDNRNN(MDNRNNConfig(hidden_size=512, restart_input=True, cell_feature=True), 64, 1)
    assert parameters(memory) - (512 + 1) == 1_678_785
    assert memory.feature_sizes == {"z": 64, "c": 512, "h": 512}


@pytest.mark.parametrize("weights", ((1.0, 1.0, 1.0), (0.5, 2.0, 10.0)))
def test_the_loss_predicts_with_the_transition_that_observes(memory, weights):
    """Step by step through `initial` and `observe`, with the heads read in between, restarts included."""
    reward_weight, done_weight, positive = weights
    memory.config = replace(memory.config, reward_weight=reward_weight, done_weight=done_weight,
                            done_positive_weight=positive)
    batch = transitions([(0, 0), (0, 7), (1, 0), (2, 0), (2, 3)])
    nll, error, done = [], [], []
    for b in range(B):
        for t in range(T):
            if batch.restart[b, t]:
                state = memory.initial(batch.z[b, t][None])
            out = head(memory, state, batch.action[b, t][None])[0]
            state = memory.observe(state, batch.action[b, t][None], batch.next_z[b, t][None])
            nll.append(mixture.nll(out[None, :-2].detach(), batch.next_z[b, t][None])[0].mean())
            error.append((out[-2] - batch.reward[b, t]) ** 2)
            end = batch.terminated[b, t]
            done.append(-(positive * end * F.logsigmoid(out[-1]) + (1 - end) * F.logsigmoid(-out[-1])))
    loss, metrics, _ = memory.loss(batch, None, torch.Generator())
    for name, values in (("nll", nll), ("reward_error", error), ("done", done)):
        torch.testing.assert_close(metrics[name], torch.stack(values).mean())
    parts = metrics["nll"] + reward_weight * metrics["reward_error"] + done_weight * metrics["done"]
    torch.testing.assert_close(loss, parts)


def test_the_losss_gradient_equals_autograds(memory, monkeypatch):
    """Of every parameter and of what comes next, through the head in chunks that do not divide the steps, with weights
    for the parts, twice the loss."""
    monkeypatch.setattr(mdn_rnn, "ROWS", 7)
    memory.config = replace(memory.config, reward_weight=0.5, done_weight=2.0, done_positive_weight=10.0)
    batch = transitions([(0, 0), (1, 4)])
    batch = batch._replace(z=batch.z.clone().requires_grad_(), next_z=batch.next_z.clone().requires_grad_())
    keep, x = 1 - batch.restart.t()[..., None], torch.cat([batch.z, batch.action, batch.restart[..., None]], -1)
    x = x[..., :memory.lstm.input.in_features].transpose(0, 1)
    h, *_ = memory.lstm(x, *torch.zeros(2, B, 6).double(), keep=keep)
    if memory.config.head_size:
        h = memory.between(torch.cat([h, x], -1)).relu()
    out = memory.head(h.transpose(0, 1))
    nll = -torchs_log_prob(out[..., :-2].clone(), batch.next_z).mean()
    done = F.binary_cross_entropy_with_logits(out[..., -1], batch.terminated, pos_weight=torch.tensor(10.0))
    plain = nll + 0.5 * F.mse_loss(out[..., -2], batch.reward) + 2 * done
    loss = memory.loss(batch, None, torch.Generator())[0]
    torch.testing.assert_close(loss, plain)
    leaves = [batch.z, batch.next_z, *memory.parameters()]
    for a, b in zip(*(torch.autograd.grad(2 * value, leaves) for value in (loss, plain))):
        torch.testing.assert_close(a, b)


@pytest.mark.skipif(not cpu_has_bfloat16(), reason="needs a CPU with bfloat16")
def test_gradients_in_bfloat16_are_the_same_to_2_digits():
    """Of sums of as many products as in training."""
    exact = MDNRNN(MDNRNNConfig(hidden_size=64), Z, A)
    rounded = MDNRNN(MDNRNNConfig(hidden_size=64, precision="bfloat16"), Z, A)
    rounded.load_state_dict(exact.state_dict())
    batch = Transitions(*(part.float() for part in transitions([(0, 0), (1, 4)])))
    found = []
    for memory in (exact, rounded):
        loss = memory.loss(batch, None, torch.Generator())[0]
        found.append((loss, *torch.autograd.grad(loss, list(memory.parameters()))))
    for a, b in zip(*found):
        assert a.dtype == b.dtype == torch.float32 and 0 <= (a - b).norm() < 0.01 * a.norm()
    assert any((a - b).norm() > 1e-5 * a.norm() for a, b in zip(*found))


def test_a_head_that_does_not_shape_the_lstm_learns_all_the_same(memory):
    """The LSTM's gradient is that of the other losses alone, the head's is as ever."""
    batch, lstm = transitions([(0, 0), (1, 4)]), list(memory.lstm.parameters())

    def gradients(shaped_by, reward_weight, done_weight):
        memory.config = replace(memory.config, shaped_by=shaped_by, reward_weight=reward_weight,
                                done_weight=done_weight)
        loss = memory.loss(batch, None, torch.Generator())[0]
        return torch.autograd.grad(loss, [*lstm, memory.head.weight])

    *whole, head = gradients(("reward", "done"), 1.0, 1.0)
    for shaped_by, weights in (((), (0, 0)), (("done",), (0, 1)), (("reward",), (1, 0))):
        *found, own_head = gradients(shaped_by, 1.0, 1.0)
        *expected, _ = gradients(("reward", "done"), *weights)
        for a, b, c in zip(found, expected, whole):
            torch.testing.assert_close(a, b)
            assert (a - c).abs().max() > 1e-4
        torch.testing.assert_close(own_head, head)


def test_some_latents_in_training_are_those_that_m_expected(memory, monkeypatch):
    """Up to the share asked for, in every stream another; never a first step's, nor what the loss is measured
    against."""
    batch, seen = transitions([(0, 0), (0, 4)]), []
    goal, forward = batch.next_z.clone(), memory.lstm.forward
    monkeypatch.setattr(memory.lstm, "forward", lambda x, *rest, **more: seen.append(x) or forward(x, *rest, **more))
    monkeypatch.setattr(mixture, "sample", lambda raw, *_: raw.new_full((len(raw), Z), 9.0))
    shares = []
    for seed in range(300):
        del seen[:]
        memory.config = replace(memory.config, scheduled_sampling=0.8)
        memory.loss(batch, None, torch.Generator().manual_seed(seed))
        real, given = (x.transpose(0, 1) for x in seen)                             # [B, T, I]
        own = (given[..., :Z] == 9).all(-1)
        assert torch.equal(given[~own], real[~own]) and torch.equal(given[..., Z:], real[..., Z:])
        assert not own[:, 0].any() and not own[batch.restart > 0].any()
        shares.append(own[1:, 1:].double().mean(1))                     # of streams without a restart on the way
    shares = torch.cat(shares)
    assert abs(shares.mean() - 0.4) < 0.04 and shares.std() > 0.2
    assert torch.equal(batch.next_z, goal)


def test_latents_expected_in_training_are_those_of_the_step_before(memory, monkeypatch):
    batch, given = transitions([(b, 0) for b in range(B)]), []
    memory.config = replace(memory.config, scheduled_sampling=1.0)
    plain = memory.lstm.forward
    monkeypatch.setattr(memory.lstm, "forward", lambda x, *rest, **more: given.append(x) or plain(x, *rest, **more))
    monkeypatch.setattr(mixture, "sample", lambda raw, *_: raw[:, :Z])
    memory.loss(batch, None, torch.Generator().manual_seed(3))
    real, own = (x.transpose(0, 1)[..., :Z] for x in given)
    for b in range(B):
        state = memory.initial(batch.z[b, 0][None])
        for t in range(1, T):
            expected = head(memory, state, batch.action[b, t - 1][None])[0, :Z]
            state = memory.observe(state, batch.action[b, t - 1][None], batch.z[b, t][None])
            if not torch.equal(own[b, t], real[b, t]):
                torch.testing.assert_close(own[b, t], expected)
    assert (own != real).any()


def test_imagination_draws_from_the_head_after_the_transition(memory):
    """The latent is a sample of the mixture that follows the action, at the given temperature."""
    state, action = watched(memory), torch.randn(B, A).double()
    out = head(memory, state, action)
    chance = noise(memory)
    imagined = memory.imagine(state, action, 0.7, chance)
    expected = mixture.sample(out[:, :-2], 0.7, chance["component"], chance["z"])
    torch.testing.assert_close(memory.latent(imagined.state), expected)
    torch.testing.assert_close(imagined.reward, out[:, -2])


def test_death_by_threshold_is_a_positive_logit_and_sampled_death_its_probability(memory):
    state, action = watched(memory), torch.zeros(B, A).double()
    for logit in (-1.0, 0.5):
        memory.head.weight.data[-1], memory.head.bias.data[-1] = 0, logit
        p_done = {}
        for death in ("threshold", "sampled"):
            memory.config = replace(memory.config, death=death)
            p_done[death] = memory.imagine(state, action, 1.0, noise(memory)).p_done
        assert (p_done["threshold"] == float(logit > 0)).all()
        torch.testing.assert_close(p_done["sampled"], torch.full((B,), logit).double().sigmoid())


def test_the_restart_flag_is_an_input_on_the_first_step_only():
    memory = MDNRNN(MDNRNNConfig(hidden_size=6, restart_input=True), Z, A).double()
    start, action, z = torch.randn(B, Z).double(), torch.randn(B, A).double(), torch.randn(B, Z).double()
    state = memory.initial(start)
    first = memory.observe(state, action, z)
    second = memory.observe(first, action, z)
    memory.lstm.input.weight.data[:, -1] += 1                   # the flag's weights
    assert not torch.equal(memory.observe(state, action, z).features, first.features)
    assert torch.equal(memory.observe(first, action, z).features, second.features)


def test_features_are_z_c_h_or_z_h():
    """In the order that the controller's weights of the paper have."""
    for cell_feature in (False, True):
        memory = MDNRNN(MDNRNNConfig(hidden_size=6, cell_feature=cell_feature), Z, A).double()
        state = watched(memory)
        z, h, c = state.inner[:3]
        assert torch.equal(state.features, torch.cat([z, c, h] if cell_feature else [z, h], -1))


@torch.no_grad()
def test_what_is_expected_is_what_imagination_draws_from(memory):
    """The mean over many draws, the reward and the probability of the end."""
    state, action = watched(memory), torch.randn(B, A).double()
    expected = memory.expect(state, action)
    rows = torch.arange(B).repeat_interleave(20_000)
    imagined = memory.imagine(state.select(rows), action[rows], 1.0, noise(memory, batch=len(rows)))
    torch.testing.assert_close(imagined.reward, expected.reward[rows])
    torch.testing.assert_close(imagined.p_done, expected.p_done[rows])
    found = memory.latent(imagined.state).view(B, -1, Z)
    error = (found.mean(1) - expected.z.mean) / (expected.z.variance / found.shape[1]).sqrt()
    assert error.abs().max() < 4.5
    torch.testing.assert_close(found.var(1), expected.z.variance, rtol=0.2, atol=0)


def test_the_weights_have_the_same_gradient_whether_z_needs_one_or_not(memory):
    batch = transitions([(0, 0)])
    loss = lambda batch: memory.loss(batch, None, torch.Generator())[0]
    plain = torch.autograd.grad(loss(batch), list(memory.parameters()))
    joint = batch._replace(next_z=batch.next_z.clone().requires_grad_())
    for a, b in zip(plain, torch.autograd.grad(loss(joint), list(memory.parameters()))):
        assert torch.equal(a, b)


@pytest.mark.parametrize("temperature", (0.5, 1.0, 1.3))
def test_the_mean_of_what_may_come_is_that_of_the_mixture_at_the_temperature(memory, temperature):
    """Before any of it is drawn: whatever the noise. At 1 it is what M expects."""
    state, action = watched(memory), torch.randn(B, A).double()
    first, other = (memory.imagine(state, action, temperature, noise(memory, seed)).mean() for seed in (0, 1))
    assert torch.equal(first, other) and first.shape == (B, Z)
    torch.testing.assert_close(first, mixture.mean(head(memory, state, action)[:, :-2], Z, temperature))
    expected = memory.expect(state, action).z.mean
    assert torch.allclose(first, expected) == (temperature == 1)
