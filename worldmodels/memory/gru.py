"""M without chance in z: a deterministic recurrent model on a GRU (Cho et al. 2014), the plainest of its family.

    h_t+1 = GRU([z_t, a_t], h_t)
    z_t+1 = W_z h_t+1 + b_z              the mean of what may come, which is also what a dream goes on with
    r_t   = w_r h_t+1 + b_r
    P(done_t) = sigmoid(w_d h_t+1 + b_d)

    loss  = mean_t [ |z_t+1 - z|^2 / Z + w_reward (r_t - r)^2 + w_done cross-entropy ]

Where several futures are possible it expects their mean. The temperature changes nothing: only the end of a dream is
drawn.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.commandline import Size
from worldmodels.memory.dreamer import PlainDreamer
from worldmodels.memory.heads import DEATH, MemoryConfig, cross_entropy, own_steps
from worldmodels.memory.recurrent import StepLinear, gru, next_h
from worldmodels.types import Imagined, Noise, NoiseSize, State, Transitions


@dataclass(frozen=True)
class GRUConfig(MemoryConfig):
    kind: str = "gru"                   # which of MEMORIES
    hidden_size: Size = 256             # GRU units


class GRU(nn.Module):
    """Inner state: z [B, Z], h [B, H]."""

    Config = GRUConfig
    observe_noise = NoiseSize()
    imagine_noise = NoiseSize({"done": 1})

    def __init__(self, config: GRUConfig, z_size: int, action_size: int):
        super().__init__()
        self.config, self.z_size, self.action_size = config, z_size, action_size
        self.cell = nn.GRUCell(z_size + action_size, config.hidden_size)
        self.head = nn.Linear(config.hidden_size, z_size + 2)               # z, reward, done logit
        self.feature_sizes = {"z": z_size, "h": config.hidden_size}

    def initial(self, z: Tensor, noise: Noise | None = None) -> State:
        return self._state(z, z.new_zeros(z.shape[0], self.config.hidden_size))

    def observe(self, state: State, action: Tensor, z: Tensor, noise: Noise | None = None) -> State:
        return self._state(z, self._transition(state, action))

    def imagine(self, state: State, action: Tensor, temperature: float, noise: Noise) -> Imagined:
        h = self._transition(state, action)
        z, reward, logit = self._heads(h)
        p_done = DEATH[self.config.death](logit)
        done = noise["done"][:, 0] < p_done
        return Imagined(self._state(z, h), reward, p_done, done, torch.zeros_like(reward), lambda: z)

    def correct(self, state: State, z: Tensor, noise: Noise | None = None) -> State:
        return self._state(z, state.inner[1])

    def latent(self, state: State) -> Tensor:
        return state.inner[0]

    def dreamer(self, batch: int, temperature: float, bfloat16: bool = False) -> PlainDreamer:
        return PlainDreamer(self, temperature, bfloat16)

    def loss(self, batch: Transitions, carry: tuple[Tensor] | None, generator: torch.Generator):
        """The sum above, each part a mean over steps; `carry` is the last h."""
        restart, config = batch.restart.t(), self.config                                        # [T, B]
        x = torch.cat([batch.z, batch.action], -1).transpose(0, 1)                              # [T, B, Z+A]
        h = carry[0] if carry else x.new_zeros(x.shape[1], config.hidden_size)
        if config.scheduled_sampling:
            own = own_steps(config.scheduled_sampling, restart, generator)[..., None]           # [T-1, B, 1]
            with torch.no_grad():
                expected, _, _ = self._heads(self._follow(x, h, restart)[:-1])
            z, action = x.split([self.z_size, self.action_size], -1)
            x = torch.cat([torch.cat([z[:1], torch.where(own, expected, z[1:])]), action], -1)
        states = self._follow(x, h, restart)
        z, reward, logit = self._heads(states.transpose(0, 1))
        squared_error = (z - batch.next_z).square().mean()
        reward_error = (reward - batch.reward).square().mean()
        done = cross_entropy(logit, batch.terminated, config.done_positive_weight).mean()
        loss = squared_error + config.reward_weight * reward_error + config.done_weight * done
        metrics = {"loss": loss, "squared_error": squared_error, "reward_error": reward_error, "done": done}
        return loss, metrics, (states[-1].detach(),)

    def _follow(self, x: Tensor, h: Tensor, restart: Tensor) -> Tensor:
        """h after each step of the streams, [T, B, H]: inputs x [T, B, Z+A], the first h [B, H], restart [T, B]."""
        T, B, _ = x.shape
        from_x, keep, states = F.linear(x, self.cell.weight_ih, self.cell.bias_ih), 1 - restart[..., None], []
        recurrent = StepLinear(self.cell.weight_hh, self.cell.bias_hh.expand(T, B, -1))
        for gates, kept in zip(from_x.unbind(0), keep):
            h = h * kept
            h = next_h(gates, recurrent(h), h)
            states.append(h)
        return torch.stack(states)

    def _transition(self, state: State, action: Tensor) -> Tensor:
        z, h = state.inner
        return gru(self.cell, torch.cat([z, action], -1), h)

    def _heads(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = self.head(h)
        return out[..., :-2], out[..., -2], out[..., -1]

    def _state(self, z: Tensor, h: Tensor) -> State:
        return State(torch.cat([z, h], -1), (z, h))
