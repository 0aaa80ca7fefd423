"""M: the MDN-RNN with reward and done heads (Ha & Schmidhuber 2018, sec. 2.2 and 4; parameter counts equal the paper's).

Deliberate differences: every task has a reward head and a done head (the paper's TakeCover has done only, its CarRacing
neither). Death in the dream is drawn from the done head's probability where `death` is "sampled"; "threshold" is the
released code's rule, a logit above 0 after training with positives weighted 10 times, which tilts how often the dream kills.
The h that the paper's controller sees has not seen the present frame. Where a step is one frame that is little; where it is four,
`peek` makes up for it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import MixtureSameFamily

from worldmodels.memory import mixture
from worldmodels.memory.dreamer import MDNRNNDreamer
from worldmodels.memory.lstm import LSTM
from worldmodels.training import TrainConfig
from worldmodels.types import Imagined, Noise, State, Transitions

DEATH = {                                       # done logits -> the probability that the dream ends
    "threshold": lambda logit: (logit > 0).to(logit.dtype),
    "sampled": torch.sigmoid,
}


@dataclass(frozen=True)
class MemoryConfig(TrainConfig):
    kind: str = "mdn_rnn"           # which of MEMORIES
    steps: int = 4000
    batch: int = 100                # parallel streams of episodes
    sequence: int = 999             # steps of each stream in one window
    clip_value: float = 1.0         # gradients are clipped by value (released code)
    hidden_size: int = 256          # LSTM cells: 256 for CarRacing, 512 for TakeCover (paper)
    mixtures: int = 5               # Gaussians for each latent dimension
    restart_input: bool = False     # an input that is 1 on an episode's first step (released code: TakeCover)
    cell_feature: bool = False      # the controller also sees the LSTM's cell state (released code: TakeCover)
    peek: bool = False              # of h, the controller sees what it becomes when the LSTM is given z, and no action yet
    head_size: int = 0              # ReLU units between the LSTM, with its input, and the heads; 0: none (paper)
    dreamt: float = 0.0             # up to this share of a stream's latents are M's own samples in training (scheduled sampling)
    reward_weight: float = 1.0      # of the squared error, beside a likelihood averaged over dimensions
    done_weight: float = 1.0        # of the cross-entropy
    done_positive_weight: float = 1.0   # of terminal steps within it (released code: 10)
    death: str = "sampled"          # how the dream decides death: sampled | threshold (released code)


class Expected(NamedTuple):
    """What M expects of a step."""

    z: MixtureSameFamily    # of the next latent [B, Z], each dimension on its own
    reward: Tensor          # [B]
    risk: Tensor            # [B], the probability of done


class MDNRNN(nn.Module):
    """Inner state: z [B, Z], h [B, H], c [B, H], restart [B, 1]."""

    def __init__(self, config: MemoryConfig, z_size: int, action_size: int):
        super().__init__()
        self.config, self.z_size, self.action_size = config, z_size, action_size
        self.lstm = LSTM(z_size + action_size + config.restart_input, config.hidden_size)
        self.between = nn.Linear(config.hidden_size + self.lstm.input.in_features, config.head_size) if config.head_size else None
        self.head = nn.Linear(config.head_size or config.hidden_size, 3 * config.mixtures * z_size + 2)     # mixture, reward, done logit
        self.feature_size = z_size + (1 + config.cell_feature) * config.hidden_size
        self.noise_size = z_size + 1, z_size            # a uniform number picks a component, a last one decides death

    def initial(self, z: Tensor) -> State:
        zeros = z.new_zeros(len(z), self.config.hidden_size)
        return self._state(z, zeros, zeros, z.new_ones(len(z), 1))

    def observe(self, state: State, action: Tensor, z: Tensor) -> State:
        h, c, _ = self._transition(state, action)
        return self._state(z, h, c, torch.zeros_like(state.inner[3]))

    def imagine(self, state: State, action: Tensor, temperature: float, noise: Noise) -> Imagined:
        h, c, x = self._transition(state, action)
        raw, reward, logit = self._heads(h, x)
        z = mixture.sample(raw, temperature, noise.uniform[:, :-1], noise.normal)
        risk = self.risk(logit)
        return Imagined(self._state(z, h, c, torch.zeros_like(state.inner[3])), reward, noise.uniform[:, -1] < risk, risk)

    def expect(self, state: State, action: Tensor) -> Expected:
        """What `imagine` draws from."""
        h, _, x = self._transition(state, action)
        raw, reward, logit = self._heads(h, x)
        return Expected(mixture.distribution(raw, self.z_size), reward, self.risk(logit))

    def dreamer(self, batch: int, action_size: int, temperature: float) -> MDNRNNDreamer:
        return MDNRNNDreamer(self, batch, action_size, temperature)

    def risk(self, logit: Tensor) -> Tensor:
        """The probability that a dream with this done logit ends, both [B]."""
        return DEATH[self.config.death](logit)

    def loss(self, batch: Transitions, carry: tuple[Tensor, Tensor] | None, generator: torch.Generator):
        """Negative log-likelihood a dimension + squared error of the reward + cross-entropy of done, each a mean over steps."""
        restart = batch.restart[..., None]                                          # [B, T, 1]
        x = self._input(batch.z, batch.action, restart).transpose(0, 1)             # [T, B, I]
        zeros, keep = x.new_zeros(x.shape[1], self.config.hidden_size), 1 - restart.transpose(0, 1)
        begin = carry or (zeros, zeros)
        if self.config.dreamt:
            x = self._dreamt(x, begin, keep, generator)
        h, *carry = self.lstm(x, *begin, keep=keep)
        targets = (t.transpose(0, 1).flatten(0, 1) for t in (batch.next_z, batch.reward, batch.terminated))
        seen = self._seen(h, x).flatten(0, 1)
        loss, nll, error, done = HeadLoss.apply(seen, self.head.weight, self.head.bias, *targets, self.config)
        return loss, {"loss": loss, "nll": nll, "reward_error": error, "done": done}, tuple(carry)

    @torch.no_grad()
    def _dreamt(self, x: Tensor, begin: tuple[Tensor, Tensor], keep: Tensor, generator: torch.Generator) -> Tensor:
        """The inputs [T, B, I], with some latents as M itself expected them one step before, in every stream another share."""
        seen = self._seen(self.lstm(x, *begin, keep=keep)[0], x)[:-1]                       # [T-1, B, H...]
        random = lambda *shape: torch.rand(shape, generator=generator, device=x.device)
        own = random(*seen.shape[:2]) < self.config.dreamt * random(x.shape[1])            # [T-1, B]
        own &= keep[1:, :, 0] > 0
        raw = F.linear(seen[own], self.head.weight[:-2], self.head.bias[:-2])
        normal = torch.randn(len(raw), self.z_size, generator=generator, device=x.device)
        x = x.clone()
        x[1:, :, :self.z_size][own] = mixture.sample(raw, 1.0, random(len(raw), self.z_size), normal)
        return x

    def _transition(self, state: State, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, h, c, restart = state.inner
        x = self._input(z, action, restart)
        return *self.lstm.step(x, h, c), x

    def _seen(self, h: Tensor, x: Tensor) -> Tensor:
        """What the head is given, of the LSTM's output and its input."""
        return h if self.between is None else self.between(torch.cat([h, x], -1)).relu()

    def _input(self, z: Tensor, action: Tensor, restart: Tensor) -> Tensor:
        return torch.cat([z, action, restart] if self.config.restart_input else [z, action], -1)

    def _heads(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = self.head(self._seen(h, x))
        return out[..., :-2], out[..., -2], out[..., -1]

    def _state(self, z: Tensor, h: Tensor, c: Tensor, restart: Tensor) -> State:
        seen = h
        if self.config.peek:
            seen, _ = self.lstm.step(self._input(z, z.new_zeros(len(z), self.action_size), restart), h, c)
        return State(torch.cat([z, c, seen] if self.config.cell_feature else [z, seen], -1), (z, h, c, restart))


ROWS = 512


class HeadLoss(torch.autograd.Function):
    """The head and its loss, with the gradient: h [N, H], weight [O, H], bias [O], and of each row the next z [N, Z], reward [N]
    and terminated [N] -> the loss, and the means of its three parts.

    A window of 100 × 999 steps has 200 MB of mixture parameters. On a CPU it is gone through in chunks of ROWS; so they, and
    all that is made of them, stay in a cache.
    """

    @staticmethod
    def forward(ctx, h, weight, bias, z, reward, terminated, config):
        d_h, d_weight, d_bias, sums = torch.empty_like(h), torch.zeros_like(weight), torch.zeros_like(bias), h.new_zeros(3)
        positive = config.done_positive_weight
        rows = ROWS if h.device.type == "cpu" else len(h)
        for h, d_h_rows, z, reward, end in zip(*(t.split(rows) for t in (h, d_h, z, reward, terminated))):
            out = torch.addmm(bias, h, weight.t())
            nll, d_raw = mixture.nll(out[:, :-2], z)
            miss, logit = out[:, -2] - reward, out[:, -1]
            # -(w y log p + (1 - y) log(1 - p)), where p = sigmoid(logit)
            done = positive * end * F.softplus(-logit) + (1 - end) * F.softplus(logit)
            sums += torch.stack([nll.sum() / z.shape[1], miss.square().sum(), done.sum()])
            p = logit.sigmoid()
            d_done = (1 - end) * p - positive * end * (1 - p)
            d_heads = torch.stack([2 * config.reward_weight * miss, config.done_weight * d_done], 1)
            d_out = torch.cat([d_raw.div_(z.shape[1]), d_heads], 1)
            torch.mm(d_out, weight, out=d_h_rows)
            d_weight.addmm_(d_out.t(), h)
            d_bias += d_out.sum(0)
        nll, error, done = sums / len(terminated)
        ctx.save_for_backward(*(gradient.div_(len(terminated)) for gradient in (d_h, d_weight, d_bias)))
        ctx.mark_non_differentiable(nll, error, done)
        return nll + config.reward_weight * error + config.done_weight * done, nll, error, done

    @staticmethod
    def backward(ctx, d_loss, *_):
        return *(d_loss * gradient for gradient in ctx.saved_tensors), None, None, None, None
