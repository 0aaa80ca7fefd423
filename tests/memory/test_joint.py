"""V and M trained by one objective: the loss against the evidence lower bound worked out by hand, where its gradients
go, and what comes out of a training."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from worldmodels import training
from worldmodels.episodes import Episode, EpisodeFolder, episode_path, write
from worldmodels.memory import MEMORIES, MDNRNNConfig
from worldmodels.memory.ensemble import EnsembleConfig
from worldmodels.memory.gru import GRUConfig
from worldmodels.memory.joint import JointConfig, WorldModel, train_jointly
from worldmodels.memory.rssm import RSSMConfig
from worldmodels.metrics import read_metrics
from worldmodels.runs import Run
from worldmodels.types import Transitions, UserError
from worldmodels.vision import VAE, Autoencoder, AutoencoderConfig, VAEConfig

B, T, Z, A = 3, 4, 3, 1
SMALL = {
    "gru": GRUConfig(hidden_size=5), "mdn_rnn": MDNRNNConfig(hidden_size=5, mixtures=2),
    "rssm": RSSMConfig(hidden_size=5, units=6, stochastic_size=4, free_nats=0.0),
    "ensemble": EnsembleConfig(members=2, member=GRUConfig(hidden_size=5))}

every_kind = pytest.mark.parametrize("kind", SMALL)
every_single_kind = pytest.mark.parametrize("kind", [kind for kind in SMALL if kind != "ensemble"])


def make(kind, **settings):
    """A tiny V and M with random weights."""
    config = SMALL[kind]
    vision = VAE(VAEConfig(z_size=Z, channels=2))
    vision.posterior.weight.data *= 10                      # so that frames differ in z
    return WorldModel(vision, MEMORIES[kind](type(config)(**vars(config) | settings), Z, A))


def windows(begins=()):
    """Three windows of random frames, of which the second begins where the first ends; episodes begin within them at
    the places `begins` (window, step). Frames, before, after, and the rest of the transitions."""
    generator = torch.Generator().manual_seed(0)
    restart = torch.zeros(B, T)
    restart[:, 0] = 1
    for b, t in begins:
        restart[b, t] = 1
    now, then = torch.zeros(2, B, T, dtype=torch.int64)
    count = 0
    for b in range(B):
        for t in range(T):
            if restart[b, t] and (b, t) != (1, 0):
                count += 1                                  # a frame that no step leads to
            now[b, t], then[b, t] = count - 1, count
            count += 1
    frames = torch.randint(256, (count, 64, 64, 3), dtype=torch.uint8, generator=generator)
    action, reward = torch.randn(B, T, A, generator=generator), torch.randn(B, T, generator=generator)
    return frames, now, then, (action, reward, (reward > 1).float(), restart)


def drawn(vision, frames, generator):
    """V's posterior and the z that the loss samples."""
    posterior = vision.encode(frames)
    return posterior, posterior.sample(torch.randn(posterior.mean.shape, generator=generator))


@every_single_kind
@pytest.mark.parametrize("begins", ((), ((0, 2), (2, 1), (2, 3))), ids=("", "episodes begin within windows"))
@torch.no_grad()
def test_the_loss_is_the_negative_evidence_lower_bound_a_step(kind, begins):
    """By hand, frame by frame: a frame with a past costs its error, the log density of what V makes of it, and M's
    loss; one without costs its error and V's own prior."""
    model, generator = make(kind), torch.Generator().manual_seed(5)
    frames, now, then, rest = windows(begins)
    posterior, z = drawn(model.vision, frames, generator)
    q = Normal(posterior.mean, (0.5 * posterior.log_var).exp())
    pictures = model.vision.decoder(z).permute(0, 2, 3, 1).double().numpy()
    error = ((pictures - frames.numpy() / 255) ** 2).sum((1, 2, 3))
    prior = kl_divergence(q, Normal(0.0, 1.0)).sum(1).tolist()
    action, reward, terminated, restart = rest
    total = 0
    for b in range(B):
        for t in range(T):
            if restart[b, t]:
                total += error[now[b, t]] + prior[now[b, t]]
            total += error[then[b, t]] - q.entropy()[then[b, t]].sum().item()
    of_memory, metrics, _ = model.memory.loss(Transitions(z[now], action, z[then], reward, terminated, restart), None,
                                              generator)
    loss, found = model.loss(frames, now, then, rest, torch.Generator().manual_seed(5))
    assert loss.item() == pytest.approx(total / (B * T) + Z * of_memory.item(), rel=1e-5)
    assert found["loss"] == loss and found["squared_error"].item() == pytest.approx(error.mean(), rel=1e-5)
    torch.testing.assert_close(found["entropy"], q.entropy().sum(1).mean())
    assert {name: value.item() for name, value in found.items() if name.startswith("memory ")} == {
        f"memory {name}": pytest.approx(value.item()) for name, value in metrics.items()}


@torch.no_grad()
def test_ms_part_of_the_loss_is_the_log_density_of_the_whole_z():
    """In nats, which V's part is in too: an MDN-RNN's mixture, step by step."""
    model = make("mdn_rnn", reward_weight=0.0, done_weight=0.0)
    frames, now, then, rest = windows()
    posterior, z = drawn(model.vision, frames, torch.Generator().manual_seed(5))
    log_p = 0
    for b in range(B):
        state = model.memory.initial(z[now[b, :1]])
        for t in range(T):
            action, after = rest[0][b, t, None], z[then[b, t, None]]
            log_p += model.memory.expect(state, action).z.log_prob(after).sum()
            state = model.memory.observe(state, action, after)
    of_v = model.vision.error(z, frames) - Normal(posterior.mean, (0.5 * posterior.log_var).exp()).entropy().sum(1)
    first = now[:, 0]
    start = model.vision.error(z, frames)[first] + model.vision.prior(posterior)[first]
    loss, _ = model.loss(frames, now, then, rest, torch.Generator().manual_seed(5))
    torch.testing.assert_close(loss, (start.sum() + of_v[then].sum() - log_p) / (B * T))


@torch.no_grad()
def test_nothing_is_gained_by_shrinking_z():
    """An M that knows of it is as much surer as V's posterior is narrower; all else stays."""
    losses = []
    for scale in (1.0, 0.1, 3.0):
        torch.manual_seed(0)
        model = make("mdn_rnn")
        model.vision.prior = lambda posterior: torch.zeros(len(posterior.mean))     # V's own prior is at another place
        encoder, head, KZ = model.vision.posterior, model.memory.head, Z * model.memory.config.mixtures
        for parameter in (encoder.weight.data, encoder.bias.data):
            parameter[:Z] *= scale                                          # means, then log-variances
        encoder.bias.data[Z:] += 2 * np.log(scale)
        for parameter in (head.weight.data, head.bias.data):
            parameter[KZ:2 * KZ] *= scale                                   # logits, means, log sigmas
        head.bias.data[2 * KZ:3 * KZ] += np.log(scale)
        for reader in (model.vision.decoder[0], model.memory.lstm.input):
            reader.weight.data[:, :Z] /= scale
        losses.append(model.loss(*windows(), torch.Generator().manual_seed(5))[0].item())
    assert losses[1:] == pytest.approx(2 * losses[:1], rel=1e-5)


class Detached(nn.Module):
    """A memory whose loss has no gradient at what it reads ("z"), or at what it is to predict ("next_z")."""

    def __init__(self, memory, *names):
        super().__init__()
        self.memory, self.config, self.z_size, self.names = memory, memory.config, memory.z_size, names

    def loss(self, batch, carry, generator):
        return self.memory.loss(batch._replace(**{name: getattr(batch, name).detach() for name in self.names}), carry,
                                generator)


@every_kind
def test_gradients_reach_the_encoder_by_what_m_reads_and_by_what_m_is_to_predict(kind):
    """Each way on its own, and the whole is their sum."""
    model, batch = make(kind), windows()

    def gradient(*detached):
        """Of the encoder's last layer."""
        loss, _ = WorldModel(model.vision, Detached(model.memory, *detached)).loss(*batch, torch.Generator())
        return torch.autograd.grad(loss, model.vision.posterior.weight)[0].double()

    whole, without_m = gradient(), gradient("z", "next_z")
    reading, predicting = gradient("next_z") - without_m, gradient("z") - without_m
    least = 1e-3 * without_m.norm()
    assert reading.norm() > least and predicting.norm() > least
    torch.testing.assert_close(reading + predicting, whole - without_m, atol=1e-3 * least.item(), rtol=1e-3)


@every_kind
def test_every_weight_of_v_and_m_has_a_gradient(kind):
    model = make(kind)
    model.loss(*windows(), torch.Generator())[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


def test_every_member_of_an_ensemble_learns_from_all_windows():
    """Also where they are fewer than the members."""
    members = B + 2
    model, generator = make("ensemble", members=members), torch.Generator().manual_seed(5)
    frames, now, then, rest = windows()
    loss, _ = model.loss(frames, now, then, rest, torch.Generator().manual_seed(5))
    loss.backward()
    for name, parameter in model.memory.named_parameters():
        assert (parameter.grad.flatten(1).abs().sum(1) > 0).all(), name
    _, z = drawn(model.vision, frames, generator)
    action, *others = rest
    batch = Transitions(z[now], action, z[then], *others)
    alike = Transitions(*(torch.cat([t] * members) for t in batch))
    _, metrics = model.loss(frames, now, then, rest, torch.Generator().manual_seed(5))
    torch.testing.assert_close(metrics["memory loss"], model.memory.loss(alike, None, generator)[0])


def test_all_chance_in_the_loss_is_that_of_the_generator():
    model, batch = make("rssm"), windows()
    losses = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(losses))
        losses.append(model.loss(*batch, torch.Generator().manual_seed(seed))[0].item())
    assert losses[0] == losses[1] != losses[2]


def test_a_v_that_gives_points_is_a_user_error():
    """M could make them easy to predict by shrinking them."""
    model = WorldModel(Autoencoder(AutoencoderConfig(z_size=Z, channels=2)), make("gru").memory)
    with pytest.raises(UserError, match="autoencoder.*variance"):
        model.loss(*windows(), torch.Generator())


# training, on a white stripe a quarter of the picture wide that the action moves left or right, round and round

PLACES = 4
CONFIG = JointConfig(steps=150, batch=4, sequence=8, learning_rate=2e-3)
MEMORY = {"gru": GRUConfig(hidden_size=16), "mdn_rnn": MDNRNNConfig(hidden_size=16, mixtures=2),
          "rssm": RSSMConfig(hidden_size=16, units=16, stochastic_size=8)}


def stripes(places):
    frames = np.zeros((len(places), 64, 64, 3), np.uint8)
    for frame, place in zip(frames, places):
        frame[:, 16 * place:16 * place + 16] = 255
    return frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve episodes of 20 steps, the reward the place arrived at."""
    folder, end = tmp_path_factory.mktemp("stripes"), np.arange(1, 21) == 20
    for seed in range(12):
        rng = np.random.default_rng(seed)
        action = rng.choice([-1, 1], (20, 1)).astype(np.float32)
        places = (rng.integers(PLACES) + np.append(0, action.cumsum()).astype(int)) % PLACES
        reward = places[1:].astype(np.float32)
        write(episode_path(folder, seed), Episode(stripes(places), action, reward, end, np.zeros(20, bool)), {})
    return folder


def fit(folder, run, config=CONFIG, memory=MEMORY["gru"], seed=0, stop=None, channels=8):
    """V and M after a training of theirs, which is interrupted at batch `stop`."""
    episodes = EpisodeFolder(folder)

    def windows(*arguments, skip):
        for number, window in enumerate(episodes.windows(*arguments, skip=skip), skip):
            if number == stop:
                raise KeyboardInterrupt
            yield window

    torch.manual_seed(0)
    vision = VAE(VAEConfig(z_size=4, channels=channels))
    return train_jointly(vision, MEMORIES[memory.kind](memory, 4, 1), config, SimpleNamespace(windows=windows), run,
                         {"joint": config, "memory": memory}, seed)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", MEMORY)
def test_z_does_not_collapse(kind, folder, run):
    """Its pictures are told apart, far better than by the mean picture, from whatever z is drawn."""
    model = fit(folder, run, replace(CONFIG, steps=250), memory=MEMORY[kind])        # an RSSM is half-way after 150
    pictures = torch.from_numpy(stripes(range(PLACES)))
    scaled = pictures / 255
    of_mean = (scaled - scaled.mean(0)).square().sum((1, 2, 3))
    with torch.no_grad():
        many = pictures.repeat(50, 1, 1, 1)
        _, z = drawn(model.vision, many, torch.Generator().manual_seed(0))
        error = model.vision.error(z, many).view(50, PLACES).mean(0)
    assert (error < 0.15 * of_mean).all()
    losses = [row["loss"] for row in read_metrics(run.folder, "joint")]
    assert losses[-1] < 0.1 * losses[0]


SHORT = JointConfig(steps=45, batch=2, sequence=5, learning_rate=2e-3)


def test_training_stores_v_and_m_as_one_checkpoint_and_follows_its_seed(folder, tmp_path):
    runs = [Run(tmp_path / name) for name in "abc"]
    first, second, other = (fit(folder, run, SHORT, seed=seed, channels=2).state_dict()
                            for run, seed in zip(runs, (0, 0, 1)))
    assert equal(first, second) and not equal(first, other)
    stored, info = runs[0].load("joint", "train_jointly")
    assert equal(stored, first) and {name.split(".")[0] for name in stored} == {"vision", "memory"}
    assert info["joint"]["steps"] == 45 and info["memory"]["kind"] == "gru"
    rows = read_metrics(runs[0].folder, "joint")
    assert [row["step"] for row in rows] == [20, 40, 45] and rows[-1]["loss"] < rows[0]["loss"]
    assert {"squared_error", "entropy", "memory loss", "memory reward_error"} < rows[0].keys()


@pytest.mark.parametrize("kind", ("mdn_rnn", "rssm"))
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(kind, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    expected = fit(folder, Run(tmp_path / "whole"), SHORT, MEMORY[kind], channels=2).state_dict()
    run = Run(tmp_path / "parts")
    for stop in (25, 44):
        with pytest.raises(KeyboardInterrupt):
            fit(folder, run, SHORT, MEMORY[kind], stop=stop, channels=2)
        assert run.progress_path("joint").exists() and not run.path("joint").exists()
    assert equal(fit(folder, run, SHORT, MEMORY[kind], channels=2).state_dict(), expected)
    assert read_metrics(run.folder) == read_metrics(tmp_path / "whole")
    assert not run.progress_path("joint").exists()
