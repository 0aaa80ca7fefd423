"""Stage 1: random rollouts of the real game -> episodes/."""

from dataclasses import asdict

from tqdm import tqdm

from pipeline.command import main, say, workers
from pipeline.presets import Config
from worldmodels.episodes import episode_path
from worldmodels.executors import LocalExecutor
from worldmodels.files import read_json, write_json
from worldmodels.runs import Run, differences
from worldmodels.types import UserError
from worldmodels.worlds.collect import CollectJob


def collect(config: Config, run: Run):
    """Stage 1: random rollouts of the real game -> episodes/."""
    settings = {key: value for key, value in asdict(config.collect).items() if key not in ("episodes", "min_steps")}
    settings |= {"task": config.task}
    recorded = run.episodes / "settings.json"
    if recorded.exists() and (different := differences(read_json(recorded), settings)):
        raise UserError(f"the episodes in {run.episodes} were collected with {different}: choose another --run, or delete them")
    write_json(recorded, settings)
    first = config.seed * 10_000_000                            # runs of different seeds share no episode
    seeds = range(first, first + config.collect.episodes)
    missing = [seed for seed in seeds if not episode_path(run.episodes, seed).exists()]
    if not missing:
        return say(f"collect: {len(seeds)} episodes are there")
    with LocalExecutor(min(workers(config), len(missing))) as executor, \
            tqdm(total=len(seeds), initial=len(seeds) - len(missing), desc="collecting", unit="episode") as bar:
        executor.run([CollectJob(config.task, config.collect, seed, run.episodes) for seed in missing], bar)


if __name__ == "__main__":
    main(collect)
