"""Stage 3: frames to latents -> latents/."""

from pathlib import Path

from tqdm import tqdm

from pipeline.collect import CURVE, check_collected
from pipeline.command import device, main, say, stage, vision_is_trained
from pipeline.presets import Config
from worldmodels import episodes
from worldmodels.agent import build_vision
from worldmodels.files import load_arrays
from worldmodels.latents import latent_path, write_latents
from worldmodels.runs import Run
from worldmodels.types import UserError
from worldmodels.vision.train import encode as encode_frames
from worldmodels.vision.vae import kl


@stage(of_models=True)
def encode(config: Config, run: Run):
    """Stage 3: frames to latents -> latents/."""
    if not vision_is_trained(config, run):
        raise UserError(f"no V in {run.folder}: run `python -m pipeline.train_vision` first")
    check_collected(config, run)
    encode_episodes(config, run)


def encode_episodes(config: Config, run: Run):
    """Every episode of the run, with the V that it has."""
    tensors, info = run.load("vision", "train_vision")
    paths = {path: latent_path(run.latents_of(round), path) for round in run.until_now
             for path in episodes.EpisodeFolder(round.episodes).paths}
    missing = [path for path, latents in paths.items() if not encoded(latents, path, info["digest"])]
    if not missing:
        return say(f"encode: {len(paths)} episodes are encoded")
    vision = build_vision(info, tensors).to(device(config))
    with run.metrics("encode", len(paths) - len(missing)) as log:
        for path in tqdm(missing, desc="encoding", unit="episode", initial=len(paths) - len(missing), total=len(paths)):
            episode = episodes.read(path)
            posterior = encode_frames(vision, episode.frames)
            write_latents(paths[path], posterior, episode, info["digest"], episodes.checksum(path))
            if posterior.log_var is not None:
                log.gather([{"kl": kl(*posterior).sum(-1).mean().item()}], len(paths) // CURVE)


def encoded(latents: Path, episode: Path, vision_digest: str) -> bool:
    """Whether a whole file of this V's latents of this episode is there; others are made again."""
    try:
        checksum = episodes.checksum(episode)
        info = load_arrays(latents)[1] if latents.exists() else {}
        return info.get("vision") == vision_digest and info.get("episode", checksum) == checksum
    except UserError:
        return False


if __name__ == "__main__":
    main(encode)
