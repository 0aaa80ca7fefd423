"""One training loop for V and M: seeded by step, so that a resumed training ends where an uninterrupted one does."""

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from worldmodels.commandline import Count, Positive, Range, Share, Weight
from worldmodels.episodes import ahead
from worldmodels.runs import Run, seed_of
from worldmodels.types import TorchModule, UserError

CHECKPOINT_EVERY = 30.0         # seconds
LOG_EVERY = 20                  # steps; metrics are averaged over them, and synchronise a GPU only then


@dataclass(frozen=True)
class TrainConfig:
    steps: Count = 1000             # optimiser steps
    batch: Count = 100              # images for V; parallel streams of episodes for M
    learning_rate: Positive = 1e-3  # Adam's
    learning_rate_decay: Annotated[float, Range(1e-12, 1)] = 1.0    # the rate is multiplied by this after each step
    final_anneal: Share = 0.0       # share of the steps, at the end, over which the rate falls to zero
    clip_value: Weight = 0.0        # gradients are clipped to ± this; 0 leaves them

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        left = (self.steps - step) / max(1.0, self.final_anneal * self.steps)
        return self.learning_rate * self.learning_rate_decay**step * min(1.0, left)


def cpu_has_bfloat16() -> bool:
    """Whether it multiplies bfloat16 numbers faster than float32 ones; an older torch does not say."""
    found = getattr(torch.cpu, "get_capabilities", dict)()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4        # of glibc's mallopt
LARGEST_ON_HEAP = 2**25                                         # bytes: what its own rule comes to in the end


@contextmanager
def memory_kept():
    """Memory that is freed within is kept for what comes next; at the end it is given back.

    glibc gives large blocks back at once, and each new one is mapped page by page: in a step of M with windows of
    100 × 999, 420,000 pages and a third of the time. Another C library goes on as it does.
    """
    try:
        libc = ctypes.CDLL(None)
        options, trim = libc.mallopt, libc.malloc_trim
    except (AttributeError, OSError, TypeError):
        yield
        return
    options(MMAP_MAX, 0)
    options(TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        for option, value in ((MMAP_MAX, 2**16), (MMAP_THRESHOLD, LARGEST_ON_HEAP),
                              (TRIM_THRESHOLD, 2 * LARGEST_ON_HEAP)):
            options(option, value)
        trim(0)


def precision(model: nn.Module) -> torch.dtype:
    """What the `precision` of a model's config comes to on the device that it is on."""
    weight, config = next(model.parameters()), cast(Any, model.config)
    there = cpu_has_bfloat16() if weight.device.type == "cpu" else True
    return torch.bfloat16 if config.precision == "bfloat16" and there else weight.dtype


def train(name: str, model: TorchModule, config: TrainConfig, batches: Callable[[int], Iterator[Any]],
          loss: Callable[[Any, Any, torch.Generator], tuple[Tensor, dict[str, Tensor], Any]],
          run: Run, info: dict, seed: int, section: str = "", together: int = 1):
    """Trains `model` in place and stores it as the checkpoint `name`. `seed` is the run's; its round and `name` make
    the streams. `section` of the command line has the settings, where it is not `name`. Where the batches of so many
    steps `together` come of what the model did before the first of them, none is prepared ahead, and progress is kept
    between such steps only. A model that has a `rate_scale` multiplies its rate by it.

    `batches(skip)` iterates over the same batches whatever it skips; `loss(batch, carry, generator)` returns the loss,
    metrics and what to carry on to the next batch (a tuple of tensors or None). Raises UserError when the loss is not
    finite; the last good state stays on disk. Raises StopTraining where a writer of the run asks for it; the same call
    goes on from there.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), config.learning_rate, fused=True)
    carry, start = load_progress(name, model, optimizer, run, info)
    generator = torch.Generator(device)
    totals, saved = {}, time.monotonic()
    ordered = ahead(batches(start)) if device.type == "cuda" and together == 1 else batches(start)
    every = LOG_EVERY if together == 1 else together
    with run.metrics(name, start) as log, memory_kept(), \
            tqdm(total=config.steps, initial=start, desc=f"training {name}", unit="step") as bar:
        for step, batch in zip(range(start, config.steps), ordered):
            generator.manual_seed(seed_of(seed, run.round, name, step))
            for group in optimizer.param_groups:
                group["lr"] = config.rate(step) * float(getattr(model, "rate_scale", 1.0))
            value, metrics, carry = loss(batch, carry, generator)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            if config.clip_value:
                nn.utils.clip_grad_value_(model.parameters(), config.clip_value)
            optimizer.step()
            metrics = {key: metric.detach() for key, metric in metrics.items()}
            for key, metric in metrics.items():
                totals.setdefault(key, []).append(metric)
            log.on_step(step + 1, metrics)
            bar.update()
            if (step + 1) % every == 0 or step + 1 == config.steps:
                means = {key: torch.stack(values).mean().item() for key, values in totals.items()}
                totals = {}
                if not all(np.isfinite(list(means.values()))):
                    raise UserError(f"training {name}: the loss is not finite by step {step + 1} ({means}); "
                                    f"lower --{section or name}.learning-rate and run again under another --run")
                log.write(step + 1, means)
                bar.set_postfix({key: f"{mean:.4g}" for key, mean in means.items()}, refresh=False)
                if log.stop or time.monotonic() - saved > CHECKPOINT_EVERY:
                    save_progress(name, model, optimizer, run, info, carry, step + 1)
                    saved = time.monotonic()
                log.check_stop()
    run.save(name, model.state_dict(), info)
    run.progress_path(name).unlink(missing_ok=True)


def save_progress(name, model, optimizer, run, info, carry, step):
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    for parameter, weight in model.named_parameters():
        tensors |= {f"optimizer.{parameter}.{key}": value for key, value in optimizer.state[weight].items()}
    tensors |= {f"carry.{i}": value for i, value in enumerate(carry or ())}
    run.save_progress(name, tensors, info | {"step": step})


def load_progress(name, model, optimizer, run, info) -> tuple[tuple | None, int]:
    """Puts an interrupted training's state into model and optimizer; returns its carry and step (None, 0 if there is
    none)."""
    progress = run.load_progress(name, info)
    if progress is None:
        return None, 0
    tensors, step = progress
    device = next(model.parameters()).device

    def part(prefix):
        return {key.removeprefix(prefix): value.to(device) for key, value in tensors.items() if key.startswith(prefix)}

    try:
        model.load_state_dict(part("model."))
        for i, (weight, parameter) in enumerate(model.named_parameters()):
            state = part(f"optimizer.{weight}.") or part(f"optimizer.{i}.")    # format 1 counted them
            # laid out as the parameter is, which the fused Adam takes for granted
            moments = {key: torch.empty_like(parameter).copy_(state[key]) for key in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": state["step"]} | moments
        carry = part("carry.")                          # a safetensors file keeps its tensors in no order
        return tuple(carry[key] for key in sorted(carry, key=int)) or None, step
    except (KeyError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{run.progress_path(name)} does not fit this training ({reason}): delete it to begin "
                        "anew") from None
