"""Training V and M on this machine: our steps against plain eager loops, and against their multiplications alone.

    python benchmarks/training.py [--rounds 7] [--device cpu]

The plain loops are what one would write first, with the same weights and the same data: for V torch's own layers and
Adam; for M an nn.LSTMCell called step by step, torch's distributions for the mixture, the state zeroed where an episode
begins. Lines take turns; medians are shown. Then both are trained side by side on synthetic data, and their losses
compared. Every kind of M has a line. The floor is the multiplications of the forward pass and of both gradients, at the
rate of a large matrix product.
"""

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from turns import in_turns, product_rate
from worldmodels.memory import MDNRNN, MEMORIES, MDNRNNConfig
from worldmodels.types import Transitions
from worldmodels.vision import VAE, VAEConfig


class PlainVAE(nn.Module):
    """The same network of torch's layers, each channel one piece of memory, as torch has them by default."""

    def __init__(self, vision: VAE):
        super().__init__()
        self.config = vision.config
        self.encoder, self.posterior, self.decoder = (
            nn.Sequential(*map(plain_layer, part)) if isinstance(part, nn.Sequential) else plain_layer(part)
            for part in (vision.encoder, vision.posterior, vision.decoder))
        self.load_state_dict(vision.state_dict())

    def loss(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        x = (frames.permute(0, 3, 1, 2).float() / 255).contiguous()
        mu, log_var = self.posterior(self.encoder(x)).chunk(2, -1)
        z = mu + torch.exp(0.5 * log_var) * torch.randn(mu.shape, generator=generator, device=mu.device)
        error = F.mse_loss(self.decoder(z), x, reduction="none").sum((1, 2, 3))
        kl = -0.5 * (1 + log_var - mu.square() - log_var.exp()).sum(-1)
        return (error + kl.clamp(min=self.config.kl_floor * self.config.z_size)).mean()


def plain_layer(layer: nn.Module) -> nn.Module:
    """torch's own layer of the same shape."""
    if isinstance(layer, nn.ConvTranspose2d):
        return nn.ConvTranspose2d(layer.in_channels, layer.out_channels, layer.kernel_size, 2)
    if isinstance(layer, nn.Conv2d):
        return nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)
    return nn.Linear(layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else layer


class PlainMDNRNN(nn.Module):
    """The same memory as a loop over an LSTMCell."""

    def __init__(self, memory: MDNRNN):
        super().__init__()
        H, self.K, self.Z = memory.config.hidden_size, memory.config.mixtures, memory.z_size
        self.cell, self.head = nn.LSTMCell(memory.lstm.input.in_features, H), nn.Linear(H, memory.head.out_features)
        self.head.load_state_dict(memory.head.state_dict())

        def torchs_order(ours: Tensor) -> Tensor:           # i, f, o, g -> i, f, g, o
            i, f, o, g = ours.detach().chunk(4)
            return torch.cat([i, f, g, o])

        with torch.no_grad():
            self.cell.weight_ih.copy_(torchs_order(memory.lstm.input.weight))
            self.cell.weight_hh.copy_(torchs_order(memory.lstm.recurrent.weight))
            self.cell.bias_ih.copy_(torchs_order(memory.lstm.input.bias))
        one_bias = torch.zeros_like(self.cell.bias_ih)                  # as ours has
        self.cell.bias_hh = nn.Parameter(one_bias, requires_grad=False)

    def loss(self, batch: Transitions, carry) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x, keep = torch.cat([batch.z, batch.action], -1), 1 - batch.restart[..., None]
        h, c = carry or 2 * [x.new_zeros(len(x), self.cell.hidden_size)]
        hidden = []
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h * keep[:, t], c * keep[:, t]))
            hidden.append(h)
        out = self.head(torch.stack(hidden, 1))
        logits, mu, log_sigma = out[..., :-2].unflatten(-1, (3, self.K, self.Z)).transpose(-1, -2).unbind(2)
        mixture = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(logits=logits, validate_args=False),
            torch.distributions.Normal(mu, log_sigma.exp(), validate_args=False), validate_args=False)
        done = F.binary_cross_entropy_with_logits(out[..., -1], batch.terminated)
        loss = -mixture.log_prob(batch.next_z).mean() + F.mse_loss(out[..., -2], batch.reward) + done
        return loss, (h.detach(), c.detach())


def trainer(model: nn.Module, loss, fused: bool, clip: float, rate: float):
    """One step of training on a batch; returns the loss."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], rate, fused=fused or None)

    def step(*batch) -> Tensor:
        value = loss(*batch)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        if clip:
            nn.utils.clip_grad_value_(model.parameters(), clip)
        optimizer.step()
        return value.detach()

    return step


def report(title: str, found: dict[str, float], count: int, unit: str, flops: float, rate: float):
    print(f"\n{title}: floor {1e3 * flops / rate:.0f} ms a step ({flops / 1e9:.1f} GFLOP at {rate / 1e9:.0f} GFLOP/s)")
    for name, seconds in found.items():
        print(f"  {name:8} {1e3 * seconds:8.1f} ms, {count / seconds:9,.0f} {unit}/s, "
              f"{flops / rate / seconds:.0%} of the floor's rate")
    print(f"  ours is {found['plain'] / found['ours']:.2f} × the plain loop", flush=True)


def blobs(batch: int, seed: int, device: str) -> Tensor:
    """A blob of light somewhere on a ground of some colour, [B, 64, 64, 3] uint8."""
    place, colour = torch.rand(2, batch, 1, 1, 3, generator=torch.Generator().manual_seed(seed))
    line = torch.arange(64) / 64
    distance = (line[:, None] - place[..., 0]).square() + (line - place[..., 1]).square()               # [B, 64, 64]
    return (255 * torch.maximum(colour / 2, torch.exp(-30 * distance)[..., None])).to(torch.uint8).to(device)


def vision_steps(channels: int, device: str, generator: torch.Generator) -> dict:
    """A training step of ours and of the plain loop, from the same weights."""
    torch.manual_seed(0)
    ours = VAE(VAEConfig(channels=channels)).to(device)
    plain = PlainVAE(ours).to(device)
    return {"ours": trainer(ours, lambda frames: ours.loss(frames, generator)[0], True, 0, 1e-3),
            "plain": trainer(plain, lambda frames: plain.loss(frames, generator), False, 0, 1e-3)}


def vision_flops(channels: int) -> int:
    """Of one image's forward pass and both gradients."""
    flops, plain = 0, PlainVAE(VAE(VAEConfig(channels=channels)))

    def count(layer, inputs, output):
        nonlocal flops
        # each of these values meets every weight of its channel
        values = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        flops += 6 * values.numel() * layer.weight[0].numel()

    for layer in plain.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            layer.register_forward_hook(count)
    plain.loss(blobs(1, 0, "cpu"), torch.Generator())
    return flops


def vision(channels: int, batch: int, rounds: int, device: str, rate: float):
    frames, steps = blobs(batch, 0, device), vision_steps(channels, device, torch.Generator(device))
    found = in_turns({name: partial(step, frames) for name, step in steps.items()}, rounds, device)
    report(f"V, {channels} channels, batches of {batch}", found, batch, "images", batch * vision_flops(channels), rate)


def compare(steps: dict, batch: Callable[[int], object], count: int, generator: torch.Generator):
    """Trains both on the same batches with the same noise."""
    curves = {}
    for name, step in steps.items():
        generator.manual_seed(0)
        curves[name] = np.array([step(batch(seed)).item() for seed in range(1, count + 1)])
    ours, plain = curves["ours"], curves["plain"]
    print(f"  in {count} steps from the same weights the plain loop's loss went from {plain[0]:.5g} "
          f"to {plain[-1]:.5g}, ours to {ours[-1]:.5g}; "
          f"the curves differ by {np.abs(ours / plain - 1).max():.0e} at most", flush=True)


def transitions(batch: int, sequence: int, z: int, actions: int, seed: int, device: str) -> Transitions:
    """A latent that follows the actions, noisily; rewards and ends that depend on it."""
    draw = torch.Generator().manual_seed(seed)
    action = torch.rand(batch, sequence, actions, generator=draw) * 2 - 1
    path = 0.3 * torch.cat([torch.zeros(batch, 1, 1), action[..., :1].cumsum(1)], 1) + torch.linspace(-1, 1, z)
    path = path + 0.1 * torch.randn(path.shape, generator=draw)
    restart = (torch.rand(batch, sequence, generator=draw) < 0.01).float()
    window = Transitions(path[:, :-1], action, path[:, 1:], path[:, 1:, 0], (path[:, 1:, 0] > 1).float(), restart)
    return Transitions(*(t.contiguous().to(device) for t in window))


def memory_steps(hidden: int, z: int, actions: int, device: str) -> dict:
    """The same for M."""
    torch.manual_seed(0)
    ours = MDNRNN(MDNRNNConfig(hidden_size=hidden), z, actions).to(device)
    plain = PlainMDNRNN(ours).to(device)
    return {"ours": trainer(ours, lambda window: ours.loss(window, None, torch.Generator())[0], True, 1.0, 1e-3),
            "plain": trainer(plain, lambda window: plain.loss(window, None)[0], False, 1.0, 1e-3)}


def memory(hidden: int, z: int, actions: int, batch: int, sequence: int, rounds: int, device: str, rate: float):
    window, steps = transitions(batch, sequence, z, actions, 0, device), memory_steps(hidden, z, actions, device)
    flops = 6 * batch * sequence * ((z + actions + hidden) * 4 * hidden + hidden * (15 * z + 2))
    found = in_turns({name: partial(step, window) for name, step in steps.items()}, rounds, device)
    report(f"M, {hidden} cells, windows of {batch} × {sequence}", found, batch * sequence, "transitions", flops, rate)


FAMILY = {
    "MDN-RNN, 256 cells": MDNRNNConfig(hidden_size=256),
    "GRU, 256 units": MEMORIES["gru"].Config(hidden_size=256),
    "RSSM, h 200, s 30": MEMORIES["rssm"].Config(),
    "RSSM, s 16 × 16 classes": MEMORIES["rssm"].Config(latents="categorical", stochastic_size=16, classes=16),
    "RSSM, 5 prior heads": MEMORIES["rssm"].Config(prior_heads=5),
    "ensemble of 5 GRUs of 256": MEMORIES["ensemble"].Config()}


def family(rounds: int, device: str):
    """A training step of each kind of M, windows of 50 × 40 (of an ensemble, of each member)."""
    steps = {}
    for name, config in FAMILY.items():
        model = MEMORIES[config.kind](config, 32, 3).to(device)
        window = transitions(50 * max(1, config.bootstraps), 40, 32, 3, 0, device)
        loss = lambda window, model=model: model.loss(window, None, torch.Generator(device))[0]
        steps[name] = partial(trainer(model, loss, True, 1.0, 1e-3), window)
    found = in_turns(steps, rounds, device)
    print("\nM of every kind, windows of 50 × 40, z 32")
    for name, seconds in found.items():
        ratio = seconds / found["MDN-RNN, 256 cells"]
        print(f"  {name:26} {1e3 * seconds:7.1f} ms a step, {ratio:.2f} × the MDN-RNN's")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="each line is measured so often; the median counts")
    parser.add_argument("--curve", type=int, default=150, help="steps of the comparison of losses")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    device = options.device
    rate = product_rate(device)

    vision(32, 100, options.rounds, device, rate)
    vision(16, 32, options.rounds, device, rate)
    generator = torch.Generator(device)
    compare(vision_steps(16, device, generator), lambda seed: blobs(32, seed, device), options.curve, generator)
    memory(256, 32, 3, 100, 999, max(1, options.rounds // 3), device, rate)
    memory(512, 64, 1, 100, 500, max(1, options.rounds // 3), device, rate)
    memory(256, 32, 3, 50, 40, options.rounds, device, rate)
    family(options.rounds, device)
    windows = lambda seed: transitions(50, 40, 32, 3, seed, device)
    compare(memory_steps(256, 32, 3, device), windows, options.curve, generator)


if __name__ == "__main__":
    main()
