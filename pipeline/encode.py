"""Stage 3: frames to latents -> latents/."""

import torch
from tqdm import tqdm

from pipeline.collect import CURVE, check_collected
from pipeline.command import clocked, device, main, say, vision_info
from pipeline.presets import Config
from worldmodels import episodes
from worldmodels.files import load_arrays
from worldmodels.memory.latents import latent_path, write_latents
from worldmodels.runs import Run
from worldmodels.types import UserError
from worldmodels.vision.train import encode as encode_frames
from worldmodels.vision.vae import kl
from worldmodels.worlds.agent import build_vision


@clocked
def encode(config: Config, run: Run):
    """Stage 3: frames to latents -> latents/."""
    if not run.finished("vision", vision_info(config)):
        raise UserError(f"no V in {run.folder}: run `python -m pipeline.train_vision` first")
    check_collected(config, run)
    tensors, info = run.load("vision", "train_vision")
    paths = {path: latent_path(round.latents, path) for round in run.until_now
             for path in episodes.EpisodeFolder(round.episodes).paths}
    missing = [path for path, latents in paths.items() if not encoded(latents, info["digest"])]
    if not missing:
        return say(f"encode: {len(paths)} episodes are encoded")
    vision = build_vision(info).to(device(config))
    vision.load_state_dict(tensors)
    with run.metrics("encode", len(paths) - len(missing)) as log:
        for path in tqdm(missing, desc="encoding", unit="episode", initial=len(paths) - len(missing), total=len(paths)):
            episode = episodes.read(path)
            mu, log_var = encode_frames(vision, episode.frames)
            write_latents(paths[path], mu, log_var, episode, info["digest"])
            log.gather([{"kl": kl(*map(torch.from_numpy, (mu, log_var))).sum(-1).mean()}], len(paths) // CURVE)


def encoded(path, vision_digest: str) -> bool:
    """Whether a whole file of this V's latents is there; others are made again."""
    try:
        return path.exists() and load_arrays(path)[1]["vision"] == vision_digest
    except UserError:
        return False


if __name__ == "__main__":
    main(encode)
