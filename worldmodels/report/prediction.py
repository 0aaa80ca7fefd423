"""How well a world model predicts episodes that it was not trained on.

    one step        scores of the next z and of its frame, from moments drawn at random
    open loop       errors of dreams that get the recorded actions, by horizon
    reward, done    calibration and skill of the reward that M expects of a step, and of P(the episode ends)
    uncertainty     an ensemble's disagreement against its error

z is what a controller sees: of each frame one sample of V's posterior, or its mean (`memory.latent`). Each dimension of
z is measured in its standard deviation over the episodes, so that memories of different V can be compared. No M
foretells V's own noise: `v_crps` and `v_frame_error` are what an M that knows the next frame would score. The
temperature is 1. An interval counts an episode's mean as one observation. V and M are on the CPU.
"""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from worldmodels.agent import Agent
from worldmodels.episodes import Episode
from worldmodels.memory.noise import draw
from worldmodels.memory.unroll import observed, unroll
from worldmodels.report.plots import EDGES
from worldmodels.report.sim_to_real_gap import dream_from, states
from worldmodels.report.statistics import half_width
from worldmodels.runs import seed_of
from worldmodels.types import Memory
from worldmodels.vision.train import encode

MOMENTS = 48            # of each episode, drawn at random, from which one step is imagined
STARTS = 2              # of each episode, from which the open loop runs
WARM_UP = 10            # steps that M has observed where an open loop starts, in episodes that are long enough
HORIZON = 100           # steps of the open loop
FRAME_STEPS = (1, 2, 5, 10, 20, 50, 100)    # of it, at which frames are compared
DRAWS = 32              # dreams from each moment
DONE_DRAWS = 8          # dreams of one step from every step of every episode
TOGETHER = 512          # dreams imagined as one batch: 100 steps of 1000 features are 200 MB
REWARD_BINS, SPREAD_BINS = 20, 10           # of equal counts
DONE_EDGES = (0.001, 0.003, *EDGES, 0.7, 0.9)
SMALLEST = 1e-6         # probability of an outcome in the log loss, which is infinite at 0


class Kept(NamedTuple):
    """Episodes as V keeps them."""

    episodes: list[Episode]     # with z [T+1, Z] where frames were
    unit: Tensor                # [Z], the standard deviation of z over all frames
    v_crps: float               # the mean CRPS of V's posterior of a frame for a z sampled from it


@torch.inference_mode()
def prediction(agent: Agent, episodes: Sequence[Episode], seed: int) -> dict[str, Any]:
    """Scores of what V and M expect of episodes with frames, as JSON takes them: None where there is no number."""
    kept = latents_of(agent, episodes, generator_of(seed, "z"))
    step = one_step(agent, episodes, kept, seed)
    scores = ("crps", "energy_score", "frame_error", "frame_error_of_mean", "v_frame_error")
    p_done, terminated = outcomes(agent.memory, kept.episodes, generator_of(seed, "outcomes"))
    means = {name: over_episodes(step[name], len(episodes)) for name in scores}
    found = {
        "one_step": means | {"v_crps": kept.v_crps},
        "open_loop": open_loop(agent, episodes, kept, seed),
        "reward": reward_calibration(step["expected"], step["came"]),
        "done": done_calibration(p_done, terminated),
        "uncertainty": spread_and_skill(step["uncertainty"], step["error_of_mean"])}
    return json.loads(json.dumps(found, default=np.ndarray.tolist), parse_constant=lambda nan: None)


@torch.inference_mode()
def film(agent: Agent, episode: Episode, start: int, steps: int, seed: int) -> np.ndarray:
    """The episode as V keeps it up to step `start`, and `steps` steps from there as M dreams them, given the same
    actions [T+1, 64, 64, 3]."""
    end = min(start + steps, len(episode.action))
    seen = episode._replace(frames=episode.frames[:end + 1])
    z = latents_of(agent, [seen], generator_of(seed, "z")).episodes[0].frames
    z = dream_from(agent, z, episode.action[:end], start, 1.0, seed)
    return np.concatenate([agent.decode(z[i:i + TOGETHER]) for i in range(0, len(z), TOGETHER)])


def latents_of(agent: Agent, episodes: Sequence[Episode], generator: torch.Generator) -> Kept:
    """Encodes episodes, and samples z."""
    posteriors = [encode(agent.vision, e.frames).as_latent(agent.memory.config.latent) for e in episodes]
    sampled = [p.sample(torch.randn(p.mean.shape, generator=generator)) for p in posteriors]
    unit = torch.cat(sampled).std(0)                                                    # [Z]
    unit = unit.clamp(min=1e-3 * float(unit.max()) or 1.0)      # where V leaves a dimension unused, it hardly moves
    # E CRPS(N(mu, sigma), z) = sigma / sqrt(pi), where z ~ N(mu, sigma)
    sigma = [torch.exp(0.5 * p.log_var) for p in posteriors if p.log_var is not None]
    v_crps = float((torch.cat(sigma) / unit).mean()) / math.pi**0.5 if sigma else 0.0
    return Kept([e._replace(frames=z.numpy()) for e, z in zip(episodes, sampled)], unit, v_crps)


def one_step(agent: Agent, episodes: Sequence[Episode], kept: Kept, seed: int) -> dict[str, np.ndarray]:
    """What M expects of MOMENTS steps of each episode, held against what came: each [N], an episode's together."""
    rng, parts = np.random.default_rng(seed_of(seed, 0, "moments")), []
    episode = np.arange(len(episodes)).repeat(MOMENTS)
    step = np.concatenate([rng.integers(len(e.action), size=MOMENTS) for e in episodes])
    for rows, z, *dreamt in dreams(agent, kept.episodes, episode, step, 1, seed_of(seed, 0, "one step")):
        z, (x, reward, uncertainty) = z[:, 0], (values[:, :, 0] for values in dreamt)   # [n, Z], [n, D, Z], [n, D]
        frames = np.stack([episodes[e].frames[t + 1] for e, t in zip(episode[rows], step[rows])])
        parts.append({
            "crps": crps(x / kept.unit, z / kept.unit).mean(-1),
            "energy_score": energy_score(x / kept.unit, z / kept.unit) / z.shape[-1]**0.5,
            "error_of_mean": ((x.mean(1) - z) / kept.unit).square().mean(-1).sqrt(),
            "frame_error": frame_error(agent, x[:, 0], frames),
            "frame_error_of_mean": frame_error(agent, x.mean(1), frames),
            "v_frame_error": frame_error(agent, z, frames),
            "expected": reward.mean(1), "uncertainty": uncertainty.mean(1)})
    found = {name: np.concatenate([part[name] for part in parts]).astype(np.float64) for name in parts[0]}
    return found | {"came": np.array([episodes[e].reward[t] for e, t in zip(episode, step)], np.float64)}


def dreams(agent: Agent, kept: Sequence[Episode], episode: np.ndarray, step: np.ndarray, horizon: int,
           seed: int) -> Iterator[tuple[np.ndarray, Tensor, Tensor, Tensor, Tensor]]:
    """D = DRAWS dreams from these steps [N] of these episodes [N], given the recorded actions. Yields, a batch of n at
    a time: which of the N, their recorded z [n, H, Z] (0 past an episode's end), and what was dreamt: z [n, D, H, Z],
    reward and uncertainty [n, D, H]. The chance in a dream does not depend on its batch."""
    memory = agent.memory
    begin = states(agent, kept, episode, step, generator_of(seed, "observe"))           # N of them
    for rows in torch.arange(len(step)).split(max(1, TOGETHER // DRAWS)):
        here = [(kept[e], t) for e, t in zip(episode[rows.numpy()], step[rows.numpy()])]
        action = pad_sequence([torch.from_numpy(e.action[t:t + horizon]) for e, t in here], True)           # [n, H, A]
        z = pad_sequence([torch.from_numpy(e.frames[t + 1:t + 1 + horizon]) for e, t in here], True)        # [n, H, Z]
        streams = [draw(memory.imagine_noise, DRAWS, generator_of(seed, "imagine", i), z) for i in rows.tolist()]
        noise = ({part: torch.cat([n[part] for n in chance]) for part in chance[0]} for chance in zip(*streams))
        every = rows.repeat_interleave(DRAWS)
        dreamt = unroll(memory, action.repeat_interleave(DRAWS, 0), begin.select(every), noise, z.shape[1])
        parts = dreamt.latent[:, 1:], dreamt.reward, dreamt.uncertainty
        yield rows.numpy(), z, *(values.unflatten(0, (-1, DRAWS)) for values in parts)


def crps(draws: Tensor, came: Tensor) -> Tensor:
    """Continuous ranked probability score of draws [N, D, ...] for what came [N, ...], each dimension on its own;
    unbiased (Gneiting & Raftery 2007, eq. 21)."""
    # mean_i |x_i - y| - 1/2 mean_{i != j} |x_i - x_j|
    D = draws.shape[1]
    apart = (draws - came[:, None]).abs().mean(1)
    # sum_{i < j} |x_i - x_j| = sum_i (2 i - D - 1) x_(i), where x_(1) <= ... <= x_(D)
    weight = 2 * torch.arange(1, D + 1).to(draws) - D - 1
    return apart - torch.tensordot(draws.sort(1).values, weight, ([1], [0])) / (D * (D - 1))


def energy_score(draws: Tensor, came: Tensor) -> Tensor:
    """The same with the Euclidean norm (eq. 22): draws [N, D, Z], came [N, Z] -> [N]."""
    D = draws.shape[1]
    pairs = torch.cdist(draws, draws, compute_mode="donot_use_mm_for_euclid_dist")      # [N, D, D]
    return (draws - came[:, None]).norm(dim=-1).mean(1) - pairs.sum((1, 2)) / (2 * D * (D - 1))


def frame_error(agent: Agent, z: Tensor, frames: np.ndarray) -> np.ndarray:
    """Mean squared error of V's pictures of z [N, Z], a channel of a pixel, which goes from 0 to 1 -> [N]."""
    return np.square((agent.decode(z).astype(np.float32) - frames) / 255).mean((1, 2, 3))


def open_loop(agent: Agent, episodes: Sequence[Episode], kept: Kept, seed: int) -> dict[str, Any]:
    """Errors of dreams from STARTS moments of each episode, by horizon. A horizon's are of the `count` episodes that
    reach it; dreams go on where M ends them."""
    rng, lengths = np.random.default_rng(seed_of(seed, 0, "starts")), np.array([len(e.action) for e in episodes])
    episode, low = np.arange(len(episodes)).repeat(STARTS), np.minimum(WARM_UP, lengths // 2)
    start = rng.integers(low[episode], np.maximum(low, lengths - HORIZON)[episode], endpoint=True)
    error, error_of_mean = np.full((2, len(start), HORIZON), np.nan)
    frame = np.full((len(start), len(FRAME_STEPS)), np.nan)
    for rows, z, x, _, _ in dreams(agent, kept.episodes, episode, start, HORIZON, seed_of(seed, 0, "open loop")):
        of_draws = ((x - z[:, None]) / kept.unit).square().mean((1, 3)).nan_to_num(torch.inf, torch.inf)   # [n, H]
        of_mean = ((x.mean(1) - z) / kept.unit).square().mean(2).nan_to_num(torch.inf, torch.inf)
        for i, (row, e, t) in enumerate(zip(rows, episode[rows], start[rows])):
            steps = min(HORIZON, lengths[e] - t)
            error[row, :steps], error_of_mean[row, :steps] = of_draws[i, :steps], of_mean[i, :steps]
            at = np.array([k for k in FRAME_STEPS if k <= steps])
            frame[row, :len(at)] = frame_error(agent, x[i, 0, at - 1], episodes[e].frames[t + at])
    found = {"steps": list(range(1, HORIZON + 1)), "frame_steps": list(FRAME_STEPS),
             "count": (~np.isnan(error)).reshape(-1, STARTS, HORIZON).any(1).sum(0)}
    for name, squared in (("z_error", error), ("z_error_of_mean", error_of_mean)):
        mean, half = by_horizon(squared)
        # a root's half width: d sqrt(m) = dm / (2 sqrt(m))
        found |= {name: mean**0.5, f"{name}_half": half / np.maximum(2 * mean**0.5, 1e-12)}
    mean, half = by_horizon(frame)
    return found | {"frame_error": mean, "frame_error_half": half}


@np.errstate(invalid="ignore")         # of dreams that went to infinity
def by_horizon(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values [E * STARTS, H], nan past an episode's end -> their means over episodes and 95% half widths, [H] each."""
    by_episode = lambda of: of.reshape(-1, STARTS, values.shape[1]).sum(1).T            # [H, E]
    count, sums = by_episode(~np.isnan(values)), by_episode(np.where(np.isnan(values), 0, values))
    columns = [s[n > 0] / n[n > 0] for s, n in zip(sums, count)]
    return tuple(np.array([f(column) if len(column) else np.nan for column in columns]) for f in (np.mean, half_width))


def outcomes(memory: Memory, kept: Sequence[Episode], generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """M's probability that the episode ends, and whether it did (1 or 0), at all S steps of all episodes."""
    z, action, terminated = (pad_sequence([torch.from_numpy(getattr(e, name)) for e in kept], True)
                             for name in ("frames", "action", "terminated"))
    lengths = torch.tensor([len(e.action) for e in kept])
    found, noise = [], draw(memory.observe_noise, len(z), generator, z)
    for t, state in zip(range(action.shape[1]), observed(memory, z, action, noise)):
        here = (lengths > t).nonzero()[:, 0]
        rows = here.repeat_interleave(DONE_DRAWS)
        chance = draw(memory.imagine_noise, len(rows), generator, z)
        p_done = unroll(memory, action[rows, t:t + 1], state.select(rows), chance, 1).p_done
        found.append((p_done.view(-1, DONE_DRAWS).mean(1), terminated[here, t]))
    p_done, came = map(torch.cat, zip(*found))
    return p_done.double().numpy(), came.numpy()


def reward_calibration(expected: np.ndarray, came: np.ndarray) -> dict[str, Any]:
    """Rewards [N] that M expected against those that came [N], in bins of equal counts."""
    bins = np.array_split(expected.argsort(kind="stable"), min(REWARD_BINS, len(expected)))
    error, variance = np.square(expected - came).mean(), came.var()
    return {"expected": [expected[b].mean() for b in bins], "came": [came[b].mean() for b in bins],
            "half": [half_width(came[b]) for b in bins], "rmse": error**0.5,
            "explained": 1 - error / variance if variance > 0 else np.nan}


def done_calibration(p_done: np.ndarray, came: np.ndarray) -> dict[str, Any]:
    """Probabilities [S] of the end against whether it came [S], in bins that DONE_EDGES cut."""
    p = p_done.clip(SMALLEST, 1 - SMALLEST)
    part = np.searchsorted(DONE_EDGES, p_done, side="right")
    bins = [part == i for i in np.unique(part)]
    return {"log_loss": -np.where(came, np.log(p), np.log1p(-p)).mean(), "brier": np.square(p_done - came).mean(),
            "rate": came.mean(), "expected": [p_done[b].mean() for b in bins], "came": [came[b].mean() for b in bins],
            "count": [int(b.sum()) for b in bins]}


def spread_and_skill(spread: np.ndarray, error: np.ndarray) -> dict[str, Any] | None:
    """An ensemble's disagreement [N] against the error of its mean [N], in bins of equal counts, and Spearman's rank
    correlation; None of a single model."""
    if not spread.any():
        return None
    bins = np.array_split(spread.argsort(kind="stable"), min(SPREAD_BINS, len(spread)))
    return {"spread": [spread[b].mean() for b in bins], "error": [error[b].mean() for b in bins], "correlation":
            np.corrcoef(ranks(spread), ranks(error))[0, 1] if np.ptp(spread) and np.ptp(error) else np.nan}


def ranks(values: np.ndarray) -> np.ndarray:
    """1 for the smallest of values [N]; equal ones share the mean of their ranks."""
    _, which, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[which]


def over_episodes(values: np.ndarray, episodes: int) -> dict[str, Any]:
    """The mean of values [N], an episode's together, and its 95% interval, if these are 10 episodes or more."""
    mean, half = (f(values.reshape(episodes, -1).mean(1)) for f in (np.mean, half_width))
    return {"mean": mean, "ci95": None if np.isnan(half) else [mean - half, mean + half]}


def generator_of(seed: int, purpose: str, *index: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(seed, 0, purpose, *index))
