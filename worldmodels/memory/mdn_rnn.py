"""M: the MDN-RNN with reward and done heads (Ha & Schmidhuber 2018, sec. 2.2 and 4; parameter counts equal the
paper's).

Deliberate differences: every task has a reward head and a done head (the paper's TakeCover has done only, its CarRacing
neither). Death in the dream is drawn from the done head's probability where `death` is "sampled"; "threshold" is the
paper's rule, a probability above 50%, after training with positives weighted 10 times (released code), which tilts how
often the dream kills. The h that the paper's controller sees has not read the current frame. Where a step is one frame,
little is lost; where it is four, `sees_current_frame` makes up for it.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import MixtureSameFamily

from worldmodels.commandline import Size, Whole
from worldmodels.memory import mixture
from worldmodels.memory.heads import DEATH, MemoryConfig, cross_entropy, own_steps
from worldmodels.memory.lstm import LSTM, add_product, glorot_bias_, put_product
from worldmodels.memory.mdn_rnn_dreamer import MDNRNNDreamer
from worldmodels.memory.training_passes import training_passes_for
from worldmodels.training import precision
from worldmodels.types import Imagined, Noise, NoiseSize, State, Transitions


@dataclass(frozen=True)
class MDNRNNConfig(MemoryConfig):
    kind: str = "mdn_rnn"               # which of MEMORIES
    hidden_size: Size = 256             # LSTM cells: 256 for CarRacing, 512 for TakeCover (paper)
    mixtures: Size = 5                  # Gaussians for each latent dimension
    restart_input: bool = False         # an input that is 1 on an episode's first step (released code: TakeCover)
    cell_feature: bool = False          # the controller also sees the LSTM's cell state (released code: TakeCover)
    # the controller sees the h that has read the current frame, with an action of zeros
    sees_current_frame: bool = False
    # the LSTM's weights; tensorflow (paper): Glorot's uniform ones, also for the heads and biases
    initial_weights: Literal["orthogonal", "tensorflow"] = "orthogonal"
    # the heads whose losses the LSTM learns by; another only reads h (paper: none in CarRacing, done in TakeCover)
    shaped_by: tuple[Literal["reward", "done"], ...] = ("reward", "done")
    # of the matrix products in training but the first, of the input; bfloat16: up to twice as fast where the CPU has it
    # (elsewhere they are float32 all the same)
    precision: Literal["float32", "bfloat16"] = "float32"
    head_size: Whole = 0                # ReLU units between the LSTM, with its input, and the heads; 0: none (paper)


class Expected(NamedTuple):
    """What M expects of a step."""

    z: MixtureSameFamily    # of the next latent [B, Z], each dimension on its own
    reward: Tensor          # [B]
    p_done: Tensor          # [B]


class MDNRNN(nn.Module):
    """Inner state: z [B, Z], h [B, H], c [B, H], restart [B, 1]."""

    Config = MDNRNNConfig
    observe_noise = NoiseSize()

    def __init__(self, config: MDNRNNConfig, z_size: int, action_size: int):
        super().__init__()
        self.config, self.z_size, self.action_size = config, z_size, action_size
        self.lstm = LSTM(z_size + action_size + config.restart_input, config.hidden_size, config.initial_weights)
        units, inputs = config.head_size, config.hidden_size + self.lstm.input.in_features
        self.between = nn.Linear(inputs, units) if units else None
        # mixture, reward, done logit
        self.head = nn.Linear(config.head_size or config.hidden_size, 3 * config.mixtures * z_size + 2)
        if config.initial_weights == "tensorflow":
            nn.init.xavier_uniform_(self.head.weight)
            glorot_bias_(self.head.bias)
        cells = {"c": config.hidden_size} if config.cell_feature else {}
        self.feature_sizes = {"z": z_size} | cells | {"h": config.hidden_size}
        self.imagine_noise = NoiseSize({"component": z_size, "done": 1}, {"z": z_size})

    def initial(self, z: Tensor, noise: Noise | None = None) -> State:
        zeros = z.new_zeros(z.shape[0], self.config.hidden_size)
        return self._state(z, zeros, zeros, z.new_ones(z.shape[0], 1))

    def observe(self, state: State, action: Tensor, z: Tensor, noise: Noise | None = None) -> State:
        h, c, _ = self._transition(state, action)
        return self._state(z, h, c, torch.zeros_like(state.inner[3]))

    def imagine(self, state: State, action: Tensor, temperature: float, noise: Noise) -> Imagined:
        h, c, x = self._transition(state, action)
        raw, reward, logit = self._heads(h, x)
        z, p_done = mixture.sample(raw, temperature, noise["component"], noise["z"]), self.p_done(logit)
        state = self._state(z, h, c, torch.zeros_like(state.inner[3]))
        mean = lambda: mixture.mean(raw, self.z_size, temperature)
        return Imagined(state, reward, p_done, noise["done"][:, 0] < p_done, torch.zeros_like(reward), mean)

    def correct(self, state: State, z: Tensor, noise: Noise | None = None) -> State:
        return self._state(z, *state.inner[1:])

    def latent(self, state: State) -> Tensor:
        return state.inner[0]

    def expect(self, state: State, action: Tensor) -> Expected:
        """What `imagine` draws from."""
        h, _, x = self._transition(state, action)
        raw, reward, logit = self._heads(h, x)
        return Expected(mixture.distribution(raw, self.z_size), reward, self.p_done(logit))

    def dreamer(self, batch: int, temperature: float, bfloat16: bool = False) -> MDNRNNDreamer:
        return MDNRNNDreamer(self, batch, temperature, bfloat16)

    def p_done(self, logit: Tensor) -> Tensor:
        """The probability that a dream with this done logit ends, both [B]."""
        return DEATH[self.config.death](logit)

    def loss(self, batch: Transitions, carry: tuple[Tensor, Tensor] | None, generator: torch.Generator):
        """Negative log-likelihood a dimension + squared error of the reward + cross-entropy of done, each a mean over
        steps."""
        restart = batch.restart[..., None]                                          # [B, T, 1]
        x = self._input(batch.z, batch.action, restart).transpose(0, 1)             # [T, B, I]
        zeros, keep = x.new_zeros(x.shape[1], self.config.hidden_size), 1 - restart.transpose(0, 1)
        begin = carry or (zeros, zeros)
        if self.config.scheduled_sampling:
            own = own_steps(self.config.scheduled_sampling, restart[..., 0].t(), generator)
            x = self._scheduled_sampling(x, begin, keep, own, generator)
        h, *carry = self.lstm(x, *begin, keep, precision(self))
        targets = (t.transpose(0, 1).flatten(0, 1) for t in (batch.next_z, batch.reward, batch.terminated))
        head_input = self._head_input(h, x).flatten(0, 1)
        loss, nll, error, done = HeadLoss.apply(head_input, self.head.weight, self.head.bias, *targets, self.config,
                                                precision(self))
        return loss, {"loss": loss, "nll": nll, "reward_error": error, "done": done}, tuple(carry)

    def _scheduled_sampling(self, x: Tensor, begin: tuple[Tensor, Tensor], keep: Tensor, own: Tensor,
                            generator: torch.Generator) -> Tensor:
        """The inputs [T, B, I], with the latents of its `own` steps [T - 1, B] as M drew them one step before."""
        random = lambda *shape: torch.rand(shape, generator=generator, device=x.device)
        with torch.no_grad():
            head_input = self._head_input(self.lstm(x, *begin, keep)[0], x)[:-1]                   # [T-1, B, H...]
            raw = F.linear(head_input[own], self.head.weight[:-2], self.head.bias[:-2])
            normal = torch.randn(len(raw), self.z_size, generator=generator, device=x.device)
            z = mixture.sample(raw, 1.0, random(len(raw), self.z_size), normal)
        x = x.clone()
        x[1:, :, :self.z_size][own] = z
        return x

    def _transition(self, state: State, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, h, c, restart = state.inner
        x = self._input(z, action, restart)
        return *self.lstm.step(x, h, c), x

    def _head_input(self, h: Tensor, x: Tensor) -> Tensor:
        """The input of the heads, made of the LSTM's output and its input."""
        return h if self.between is None else self.between(torch.cat([h, x], -1)).relu()

    def _input(self, z: Tensor, action: Tensor, restart: Tensor) -> Tensor:
        return torch.cat([z, action, restart] if self.config.restart_input else [z, action], -1)

    def _heads(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = self.head(self._head_input(h, x))
        return out[..., :-2], out[..., -2], out[..., -1]

    def _state(self, z: Tensor, h: Tensor, c: Tensor, restart: Tensor) -> State:
        visible = h
        if self.config.sees_current_frame:
            visible, _ = self.lstm.step(self._input(z, z.new_zeros(z.shape[0], self.action_size), restart), h, c)
        return State(torch.cat([z, c, visible] if self.config.cell_feature else [z, visible], -1), (z, h, c, restart))


ROWS = 512


class HeadLoss(torch.autograd.Function):
    """The head and its loss, with the gradient: h [N, H], weight [O, H], bias [O], and of each row the next z [N, Z],
    reward [N] and terminated [N] -> the loss, and the means of its three parts. Gradients reach the weights and z, and
    h as far as `shaped_by` says.

    A window of 100 × 999 steps has 200 MB of mixture parameters. On a CPU it is gone through in chunks of ROWS; so
    they, and all that is made of them, stay in a cache.
    """

    @staticmethod
    def forward(ctx, h, weight, bias, z, reward, terminated, config, dtype):
        d_h, d_weight, d_bias = torch.empty_like(h), torch.zeros_like(weight), torch.zeros_like(bias)
        shaping = weight.clone()                        # of the outputs whose losses reach h
        shaping[-2:] *= weight.new_tensor([[name in config.shaped_by] for name in ("reward", "done")])
        head, head_bias, shaping = (t.to(dtype) for t in (weight.t(), bias, shaping))
        sums = h.new_zeros(3)
        d_z = torch.empty_like(z if ctx.needs_input_grad[3] else z[:, :0])
        positive, passes = config.done_positive_weight, training_passes_for(weight)
        rows = ROWS if h.device.type == "cpu" else len(h)
        chunks = zip(*(t.split(rows) for t in (h, d_h, z, d_z, reward, terminated)))
        for h, d_h_rows, z, d_z_rows, reward, end in chunks:
            h = h.to(dtype)
            out = torch.addmm(head_bias, h, head)
            d_out = torch.empty_like(out)
            nll = passes.mixture_loss(out, z, d_out, d_z_rows)
            predicted, logit = out[:, -2:].to(bias.dtype).unbind(1)
            miss = predicted - reward
            done = cross_entropy(logit, end, positive)
            sums += torch.stack([torch.as_tensor(nll).to(sums), miss.square().sum(), done.sum()])
            p = logit.sigmoid()
            d_done = (1 - end) * p - positive * end * (1 - p)
            d_out[:, -2:] = torch.stack([2 * config.reward_weight * miss, config.done_weight * d_done], 1)
            put_product(d_h_rows, d_out, shaping)
            add_product(d_weight, d_out.t(), h)
            d_bias += d_out.sum(0, dtype=d_bias.dtype)
        nll, error, done = sums / len(terminated)
        ctx.save_for_backward(*(gradient.div_(len(terminated)) for gradient in (d_h, d_weight, d_bias, d_z)))
        ctx.mark_non_differentiable(nll, error, done)
        return nll + config.reward_weight * error + config.done_weight * done, nll, error, done

    @staticmethod
    def backward(ctx, d_loss, *_):
        wanted = (None if g.shape[1:] == (0,) else d_loss * g for g in ctx.saved_tensors)
        return *wanted, None, None, None, None
