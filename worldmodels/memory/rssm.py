"""M: a recurrent state-space model, RSSM (Hafner et al. 2019, PlaNet; the form and sizes of Dreamer V1, 2020).

Memory and uncertainty are apart: h is computed, s is drawn.

    h_t+1 = f(h_t, s_t, a_t)                a GRU
    prior       p(s_t+1 | h_t+1)            what a dream draws s from
    posterior   q(s_t+1 | h_t+1, z_t+1)     the same, once z is known
    z_t+1 ~ N(mu(s, h), sigma^2), r_t, P(done_t)    read off the state arrived at; sigma is learnt, one a dimension

    loss = mean_t [ (-log p(z | s, h) + w_reward (r_t - r)^2 + KL(q || p)) / Z + w_done cross-entropy ]

The first frame's z is given: s_0 ~ q(s | 0, z_0). So an episode's start has neither an old state nor an old action.

KL. With `free_nats_per` "mean" the batch's mean KL costs nothing below `free_nats` (Dreamer V1, V2), with "step" that
of each step (PlaNet, Dreamer V3). Its gradient to the prior is multiplied by `kl_prior_weight`, that to the posterior
by `kl_posterior_weight`: 1 and 1 is the plain KL (PlaNet, V1), 0.8 and 0.2 V2's balance, 1 and 0.1 V3's.

The temperature tau of a dream scales the variances of s and z; of a categorical s it divides the logits. In the
ablation "deterministic" the heads learn to read the prior's mean of s: the posterior's has seen z.

Deliberate differences: z is V's latent, not an image, and the loss is per dimension of z, as in all kinds. The reward's
error is divided by Z too. Were it not, it would outweigh the KL, and the posterior, which sees what comes, would learn
the reward where the prior does not (docs/experiments.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.commandline import Positive, Range, Size, Weight
from worldmodels.memory.dreamer import PlainDreamer
from worldmodels.memory.heads import DEATH, DISAGREEMENT, LOG_SQRT_2PI, MemoryConfig, cross_entropy, network, own_steps
from worldmodels.memory.recurrent import gru
from worldmodels.memory.rssm_sequence import Sequence, Stochastic
from worldmodels.memory.stochastic import LATENTS, scaled_gradient
from worldmodels.types import Imagined, Noise, NoiseSize, State, Transitions


@dataclass(frozen=True)
class RSSMConfig(MemoryConfig):
    kind: str = "rssm"                  # which of MEMORIES
    hidden_size: Size = 200             # of h (PlaNet, Dreamer V1)
    stochastic_size: Size = 30          # of s: dimensions, or categorical variables (Dreamer V2, V3: 32)
    latents: Literal["gaussian", "categorical"] = "gaussian"    # what s is
    classes: Size = 32                  # of each categorical variable (Dreamer V2, V3)
    units: Size = 200                   # of the hidden layer of each network (Dreamer V1)
    # PlaNet's ablations: "stochastic" keeps no h from step to step, "deterministic" has the mean of s in its place
    paths: Literal["both", "stochastic", "deterministic"] = "both"
    sigma: Positive = 0.1               # at the beginning; with 1, s is slow to learn to say anything of z
    free_nats: Weight = 3.0             # of KL that cost nothing (PlaNet, Dreamer V1; V3: 1)
    free_nats_per: Literal["mean", "step"] = "mean"     # of the batch's mean, or of each step
    kl_prior_weight: Weight = 1.0       # of the KL's gradient to the prior
    kl_posterior_weight: Weight = 1.0   # of its gradient to the posterior
    # networks of the prior; one is drawn at each step of a dream, and where they differ it is uncertain (Dreamer V2)
    prior_heads: Annotated[int, Range(1, 30)] = 1
    disagreement: Literal["std", "deviation", "pair"] = "std"   # of prior heads, see heads.DISAGREEMENT


class RSSM(nn.Module):
    """Inner state: z [B, Z], s [B, S], h [B, H]."""

    Config = RSSMConfig

    def __init__(self, config: RSSMConfig, z_size: int, action_size: int):
        super().__init__()
        self.config, self.z_size, self.action_size = config, z_size, action_size
        self.of_s = LATENTS[config.latents](config.stochastic_size, config.classes)
        self.keeps_h, self.draws_s = config.paths != "stochastic", config.paths != "deterministic"
        S, U, P = self.of_s.size, config.units, self.of_s.parameters
        self.h_size = H = config.hidden_size if self.keeps_h else U
        self.input = nn.Linear(S + action_size, U)
        self.cell = nn.GRUCell(U, H) if self.keeps_h else None
        self.priors = nn.ModuleList(network(H, U, P) for _ in range(config.prior_heads))
        self.posterior = network(H + z_size, U, P)
        self.head = network(S + H * self.keeps_h, U, z_size + 2)                # z's mean, reward, done logit
        self.log_sigma = nn.Parameter(torch.full((z_size,), config.sigma).log())
        self.feature_sizes = {"z": z_size, "s": S} | ({"h": H} if self.keeps_h else {})
        drawn = {"s": self.of_s.noise_size} if self.draws_s else {}
        uniform, normal = ({}, drawn) if self.of_s.random is torch.randn else (drawn, {})
        self.observe_noise = NoiseSize(uniform, normal)
        if config.prior_heads > 1:
            uniform = uniform | {"prior_head": 1}
        self.imagine_noise = NoiseSize(uniform | {"done": 1}, normal | {"z": z_size})

    def initial(self, z: Tensor, noise: Noise | None = None) -> State:
        return self._infer(z, z.new_zeros(z.shape[0], self.h_size), noise)

    def observe(self, state: State, action: Tensor, z: Tensor, noise: Noise | None = None) -> State:
        return self._infer(z, self._transition(*state.inner[1:], action), noise)

    def correct(self, state: State, z: Tensor, noise: Noise | None = None) -> State:
        return self._infer(z, state.inner[2], noise)

    def imagine(self, state: State, action: Tensor, temperature: float, noise: Noise) -> Imagined:
        h = self._transition(*state.inner[1:], action)
        prior, means, uncertainty = self._prior(h, noise)
        s = self._draw(prior, temperature, noise)
        z, reward, logit = self._heads(s, h)
        z = z + temperature**0.5 * self.log_sigma.exp() * noise["z"]
        p_done = DEATH[self.config.death](logit)
        mean = lambda: self._heads(means(), h)[0]                       # to first order in s
        return Imagined(self._state(z, s, h), reward, p_done, noise["done"][:, 0] < p_done, uncertainty, mean)

    def latent(self, state: State) -> Tensor:
        return state.inner[0]

    def dreamer(self, batch: int, temperature: float, bfloat16: bool = False) -> PlainDreamer:
        return PlainDreamer(self, temperature, bfloat16)

    def loss(self, batch: Transitions, carry: tuple[Tensor, Tensor] | None, generator: torch.Generator):
        """The sum above; `carry` is the last s and h."""
        config = self.config
        h, s, posterior, carry = self._follow(batch, carry, generator)                      # [T, B, ...]
        next_z, came, terminated = (t.transpose(0, 1) for t in (batch.next_z, batch.reward, batch.terminated))
        priors = torch.stack([prior(h) for prior in self.priors])                           # [heads, T, B, P]
        mean, reward, logit = self._heads(s if self.draws_s else self.of_s.mean(priors).mean(0), h)
        # -log N(z; mu, sigma^2)
        deviation = (next_z - mean) * torch.exp(-self.log_sigma)
        nll = (0.5 * deviation.square() + self.log_sigma).mean() + LOG_SQRT_2PI
        q = scaled_gradient(posterior, config.kl_posterior_weight)
        kl = self.of_s.kl(q, scaled_gradient(priors, config.kl_prior_weight)).mean(0)       # [T, B]
        counted = (kl if config.free_nats_per == "step" else kl.mean()).clamp(min=config.free_nats).mean()
        reward_error = (reward - came).square().mean()
        done = cross_entropy(logit, terminated, config.done_positive_weight).mean()
        loss = nll + (config.reward_weight * reward_error + counted) / self.z_size + config.done_weight * done
        metrics = {"loss": loss, "nll": nll, "kl": kl.mean(), "reward_error": reward_error, "done": done}
        return loss, metrics, carry

    def _follow(self, batch: Transitions, carry: tuple[Tensor, Tensor] | None, generator: torch.Generator):
        """The same as `observe` along the streams -> h, s and the posterior's parameters after each step, [T, B, ...],
        and the last s and h."""
        action, z, next_z, restart = (t.transpose(0, 1) for t in (batch.action, batch.z, batch.next_z, batch.restart))
        B, share = action.shape[1], self.config.scheduled_sampling
        random = partial(self.of_s.random, B, self.of_s.noise_size, generator=generator, device=z.device, dtype=z.dtype)
        draw = lambda parameters, noise: self._draw(parameters, 1.0, {"s": noise})
        begins = [row.nonzero()[:, 0].to(z.device) for row in restart.cpu()]                # streams, of each step
        if carry is None:
            begins[0] = torch.arange(B, device=z.device)
        s, h = carry or (z.new_zeros(B, self.of_s.size), z.new_zeros(B, self.h_size))
        goes_on = own_steps(share, restart, generator)[..., None] if share else None
        own_noise, noise, first_z, first_noise = [None], [], [], []
        for t, rows in enumerate(begins):
            if share and t:
                own_noise.append(random())
            if len(rows):
                first_z.append(z[t, rows])
                first_noise.append(random()[rows])
            noise.append(random())
        first_s = self.initial(torch.cat(first_z), {"s": torch.cat(first_noise)}).inner[1] if first_z else s[:0]
        own = lambda t, h: (draw(self.priors[0](h), own_noise[t]), goes_on[t - 1])
        chance = Stochastic(draw, self.of_s.gradient, torch.stack(noise) * self.draws_s, begins, own if share else None)
        (hidden, _, last), cell = self.posterior, self.cell
        of_s, of_a = self.input.weight.split([self.of_s.size, self.action_size], 1)
        of_h, of_z = hidden.weight.split([self.h_size, self.z_size], 1)
        of_gru = (cell.weight_ih, cell.bias_ih, cell.weight_hh, cell.bias_hh) if cell else ()
        h, parameters, s = Sequence.apply(
            F.linear(action, of_a, self.input.bias), F.linear(next_z, of_z, hidden.bias), first_s, of_s, of_h,
            last.weight, last.bias, s, h, chance, *of_gru)
        return h, s, parameters, (s[-1].detach(), h[-1].detach())

    def _transition(self, s: Tensor, h: Tensor, action: Tensor) -> Tensor:
        x = F.relu(self.input(torch.cat([s, action], -1)))
        return gru(self.cell, x, h) if self.keeps_h else x

    def _prior(self, h: Tensor, noise: Noise) -> tuple[Tensor, Callable[[], Tensor], Tensor]:
        """The parameters [B, P] of the prior, one head's if there are several; the mean of s; the heads' disagreement
        [B]."""
        if len(self.priors) == 1:
            parameters = self.priors[0](h)
            return parameters, lambda: self.of_s.mean(parameters), torch.zeros_like(h[:, 0])
        heads = torch.stack([prior(h) for prior in self.priors], 1)                         # [B, heads, P]
        drawn = (noise["prior_head"][:, 0] * len(self.priors)).long()
        means = self.of_s.mean(heads)                                                       # [B, heads, S]
        uncertainty = DISAGREEMENT[self.config.disagreement](means)
        return heads[torch.arange(h.shape[0], device=h.device), drawn], lambda: means.mean(1), uncertainty

    def _infer(self, z: Tensor, h: Tensor, noise: Noise | None) -> State:
        return self._state(z, self._draw(self.posterior(torch.cat([h, z], -1)), 1.0, noise), h)

    def _draw(self, parameters: Tensor, temperature: float, noise: Noise | None) -> Tensor:
        return self.of_s.sample(parameters, temperature, noise["s"]) if self.draws_s else self.of_s.mean(parameters)

    def _heads(self, s: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = self.head(torch.cat([s, h], -1) if self.keeps_h else s)
        return out[..., :-2], out[..., -2], out[..., -1]

    def _state(self, z: Tensor, s: Tensor, h: Tensor) -> State:
        return State(torch.cat([z, s, h] if self.keeps_h else [z, s], -1), (z, s, h))
