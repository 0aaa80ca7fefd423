"""The report's pictures and films, and the page that has all of them."""

import inspect
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np

from pipeline.command import TYPED, say, task_of
from pipeline.presets import Config, presets
from worldmodels import runs
from worldmodels.agent import Agent, load_agent
from worldmodels.commandline import leaves
from worldmodels.controller import PolicySpec
from worldmodels.envs import Task
from worldmodels.episodes import Episode
from worldmodels.executors import machine
from worldmodels.metrics import read_metrics
from worldmodels.report import comparison_charts, page, plots, worst
from worldmodels.report.comparison import EPISODES
from worldmodels.report.scores import WORLDS, interval, own_score, read_scores, spread
from worldmodels.report.sim_to_real_gap import dream_from, sim_to_real_gap
from worldmodels.report.statistics import FEWEST, paired_difference
from worldmodels.report.verdict import standings, verdict
from worldmodels.runs import Run
from worldmodels.worlds.collect import env_settings
from worldmodels.worlds.dream import DreamWorld
from worldmodels.worlds.real import real_world
from worldmodels.worlds.record import Recording, record, record_games

FILM_STEPS = 0, 1, 2, 5, 10, 20, 35, 50         # of the comparison's film strips
SHOWN = 3               # of the worst episodes
LEARNING = "collect", "train_vision", "encode", "train_memory", "train_jointly", "train_controller"     # stages
AHEAD = 90              # steps of the film strip


def draw(config: Config, run: Run, agent: Agent, dream: DreamWorld, controller: PolicySpec, scores: list[dict],
         watched: list[Episode]):
    """All pictures of the report, of the run's controller, whose scores are among these and whose episodes `watched`
    are."""
    say("drawing")
    own, in_its_dream = (own_score(scores, world) for world in ("real", "dream"))
    folder, tau, repeat = run.report, config.dream.temperature, config.collect.repeat
    on_cpu = load_agent(run, task=agent.task)
    found = sim_to_real_gap(on_cpu, controller, watched, tau, config.seed)
    metrics = [*(row for stage in ("vision", "joint") for row in read_metrics(run.root, stage)),
               *(row for stage in ("memory", "controller", "behaviour") for row in read_metrics(run.folder, stage))]
    task = agent.task.env_id
    sheets = {
        "returns": (plots.returns(scores), f"{task}: returns in the real game", 1, (8, 2.4)),
        "dream_vs_real": (plots.dream_vs_real(scores),
                          "Does the dream predict the game? The closer the two curves, the better", 3),
        "sim_to_real_gap": (plots.sim_to_real_gap(found, [own, in_its_dream], repeat),
                            f"Where dream and game part: {own['controller']}"),
        "curves": (plots.curves(metrics),)
    }
    if run.round > 1:
        sheets["rounds"] = plots.rounds(list(history(run))), "", 1, (7, 4.2)
    for picture, (panels, *layout) in sheets.items():
        plots.save(plots.sheet(panels, *layout), folder / f"{picture}.png")

    played, dreamed = recorded(config, agent, dream, controller)
    stride = 2 if repeat == 1 else 1                            # a film has 50 pictures a second at most
    fps = agent.task.fps / repeat / stride
    length = max(len(r.frames[::stride]) for r in (played, dreamed)) + round(fps)       # its end stands for a second
    for watched_one, caption, file in ((played, "the game", "real"), (dreamed, f"the dream, tau {tau:g}", "dream")):
        ending = ended(agent.task, watched_one, repeat, config.evaluate.video_steps)
        plots.video(watched_one.frames[::stride], folder / f"{file}.webp", fps, caption, ending, length,
                    stride * repeat)
    start = min(len(played.action) // 4, 60)
    along = dream_from(on_cpu, played.latent, played.action, start, tau, config.evaluate.first_seed)
    rows = {"the game": played.seen, "kept by V": agent.decode(played.latent), "dreamed by M": agent.decode(along)}
    last = min(start + AHEAD, len(played.action))
    caption = f"M sees the real game up to step {start}, then dreams on, given the same actions"
    plots.save(plots.film_strip(rows, np.linspace(start, last, 10).astype(int), caption), folder / "film_strip.png")

    lost = list(where_lost(config, on_cpu, controller, watched, folder))

    charts = {picture: page.charts(panels) for picture, (panels, *_) in sheets.items()}
    times = np.linspace(start, last, 6).astype(int)
    films = {f"the game: {ended(agent.task, played, repeat, config.evaluate.video_steps)}": folder / "real.webp",
             f"the dream, tau {tau:g}: {ended(agent.task, dreamed, repeat, config.evaluate.video_steps)}":
                 folder / "dream.webp"}
    paragraphs = lambda lines: "".join(map(page.paragraph, lines))
    sections = [
        ("Verdict",
         page.paragraph(verdict(agent.task, own, scores)) +
         page.table(("in the game", "mean ± std", "95% interval of the mean", "episodes"),
                    standings(agent.task, own, scores, faithful(config.task))) +
         paragraphs(beside_the_start(scores, own))),
        ("What is what", paragraphs(what_is_what(agent, config))),
        ("Scores", page.charts([plots.intervals(scores)]) + score_table(scores) + paragraphs(glossary(config))),
        ("The same controller in both worlds",
         page.paragraph("Both films loop together. One whose episode has ended stands still until the other's has.") +
         page.films(films)),
        ("What is kept, and what is dreamt",
         page.paragraph(f"{caption}: steps {', '.join(map(str, times))}.") + page.strip(rows, times)),
        ("Where it does worst", "".join(lost)),
        ("Does the dream predict the game?", charts["dream_vs_real"]),
        ("Where dream and game part", charts["sim_to_real_gap"]),
        *([("What each round added", charts["rounds"])] if run.round > 1 else []),
        ("Returns in the game", charts["returns"]), ("Training", charts["curves"]),
        ("Time and machine", paragraphs(time_and_machine(run))), ("What next", paragraphs(what_next(config))),
        ("Settings", "".join(page.fold(section, page.table((), rows)) for section, rows in settings(config)))
    ]
    page.write(folder / "report.html", f"{agent.task.env_id}: run {config.run}, round {run.round}",
               headline(config, scores), sections)


def compared(entries: list[dict], films: dict[str, dict[str, np.ndarray]], folder: Path):
    """The pictures of a comparison, and film strips of frames [N, 64, 64, 3] by whose episode and by name."""
    charts = comparison_charts
    loops = [charts.open_loop(entries, score, whose) for score in ("z_error_of_mean", "frame_error")
             for whose in EPISODES]
    sheets = {
        "scores": ([charts.one_step(entries), charts.dream_vs_game(entries), charts.cost(entries),
                    charts.cost(entries, by="dream_steps_per_s")],
                   "World models trained on the same episodes for the same time"),
        "open-loop": (loops, "How errors grow while a world model dreams on, given the recorded actions"),
        "calibration": ([charts.reward_calibration(entries, "controller"),
                         charts.done_calibration(entries, "controller"),
                         *(charts.spread_skill(entries, whose) for whose in EPISODES)],
                        "Are rewards, ends and uncertainty what they are said to be?")}
    for name, (panels, title) in sheets.items():
        plots.save(plots.sheet(panels, title, 2, (7, 4.6)), folder / f"compare-{name}.png")
    for whose, rows in films.items():
        title = f"From one moment of {EPISODES[whose]} on, given the same actions: single dreams"
        labels = ["V alone", *(f"{step} steps" for step in FILM_STEPS[1:])]
        strip = plots.film_strip(rows, range(len(labels)), title, labels)
        plots.save(strip, folder / f"compare-film-{whose}.jpg")


def recorded(config: Config, agent: Agent, dream: DreamWorld, controller: PolicySpec) -> tuple[Recording, Recording]:
    """An episode of the controller in the game and one in the dream, watched."""
    task, seed, steps = agent.task, config.evaluate.first_seed, config.evaluate.video_steps
    act = lambda: agent.policy_of(controller)
    with closing(real_world(agent, task.max_steps, env_settings(task, config.collect), "rgb_array")) as real:
        played = record(real, agent.memory, act(), seed, lambda: (real.envs[0].render(), real.frames[0]), steps)

    def dreamed_picture():
        frame = agent.decode(agent.memory.latent(dream.state)[0])
        return frame, frame

    return played, record(dream, agent.memory, act(), seed, dreamed_picture, steps)


def where_lost(config: Config, agent: Agent, controller: PolicySpec, watched: list[Episode],
               folder: Path) -> Iterator[str]:
    """The worst of the watched episodes, played again, at the moment they were lost -> worst.png, and the page's."""
    decile = worst.worst(watched)
    returns = np.array([episode.reward.sum() for episode in watched])
    yield page.paragraph(f"The worst {len(decile)} of {len(watched)} episodes have {returns[decile].mean():.0f} on "
                         f"average, all of them {returns.mean():.0f}. Below: the worst, played again. Bars are "
                         "what the controller does at that step: one for each action, from zero on.")
    task, seeds = agent.task, [config.evaluate.first_seed + number for number in decile[:SHOWN]]
    again = zip(seeds, record_games(agent, controller, env_settings(task, config.collect), seeds))
    for place, (seed, played) in enumerate(sorted(again, key=lambda item: item[1].reward.sum())):
        rows, times = worst.moments(agent, played, worst.lost_at(played.reward, task.survival))
        title = f"seed {seed}: {played.reward.sum():.0f} in all, here steps {times[0]} to {times[-1]}"
        yield page.paragraph(title) + page.strip(rows, times)
        if place == 0:
            plots.save(plots.film_strip(rows, times, title), folder / "worst.png")


def headline(config: Config, scores: list[dict]) -> Iterator[str]:
    """What stands below the page's title."""
    commit = scores[0]["git_commit"] or "unknown"
    yield (f"--task {config.task} --preset {config.preset} --seed {config.seed}, commit {commit}. Episodes are of "
           "seeds that nothing was trained on or chosen by. World Models after Ha & Schmidhuber (2018).")


def faithful(task: str) -> dict | None:
    """The published score of the paper's method by this program, where there is one."""
    scores = Run(runs.PUBLISHED / task / "faithful").report / "scores.json"
    return own_score(read_scores(scores)) if scores.exists() else None


def ended(task: Task, watched: Recording, repeat: int, longest: int) -> str:
    """How a film's episode ended."""
    frames = len(watched.action) * repeat
    if watched.terminated[-1]:
        return f"{'died' if task.survival else 'ended'} after {frames} frames"
    return f"film cut at {frames} frames" if len(watched.action) == longest else f"time over after {frames} frames"


def beside_the_start(scores: list[dict], own: dict) -> Iterator[str]:
    """What the search added to where it began, on the same episodes."""
    for start in (s for s in scores if s["world"] == "real" and s["controller"].startswith("start of the search")):
        if start["episodes"] == own["episodes"] >= FEWEST:
            mean, low, high = paired_difference(own["returns"], start["returns"])
            yield (f"The search began at a controller that has {start['mean']:.0f}. On the same episodes the search "
                   f"added {mean:+.0f} (95% interval {low:+.0f} to {high:+.0f}).")


def what_is_what(agent: Agent, config: Config) -> Iterator[str]:
    """V, M and C in a sentence each."""
    count = lambda module: f"{sum(p.numel() for p in module.parameters()):,} parameters"
    yield (f"V, the vision ({config.vision.kind}, {count(agent.vision)}), compresses each picture of 64×64 pixels to "
           f"{agent.memory.z_size} numbers, z.")
    yield (f"M, the memory ({config.memory.kind}, {count(agent.memory)}), predicts the next z, the reward, and whether "
           "the episode ends. Asked again and again, it dreams.")
    where = {"dream": "in M's dream", "real": "in the game"}[config.world]
    yield (f"C, the controller ({config.controller.kind}), turns z and M's memory into an action. It was trained "
           f"{where} ({config.learner.kind}).")


def time_and_machine(run: Run) -> Iterator[str]:
    """How long it took, stage by stage, and where the page was made."""
    total: dict[str, float] = {}
    for round in run.until_now:
        for stage, seconds in round.seconds.items():
            total[stage] = total.get(stage, 0) + seconds
    took = ", ".join(f"{stage} {seconds / 60:.1f}" for stage, seconds in total.items())
    yield f"Minutes of all {run.round} rounds: {took or 'not recorded'}."
    yield f"This page was made on {machine.description()}."


def what_next(config: Config) -> Iterator[str]:
    """The commands that lead on."""
    yield "Play in this dream: worldmodels web"
    if config.preset in ("smoke", "quick") and "laptop" in presets(task_of(config)):
        yield f"Train longer, for one to three hours: python -m pipeline --task {config.task} --preset laptop"
    yield (f"Add a round, with this controller collecting: python -m pipeline --task {config.task} --preset "
           f"{config.preset} --run {config.run} --rounds {config.rounds + 1}")


def score_table(scores: list[dict]) -> str:
    """The scores in words."""
    world = lambda s: f"dream, tau {s['temperature']:g}" if s["temperature"] else WORLDS[s["world"]]
    rows = [(s["controller"], world(s), spread(s).replace(" ", "\u00a0"), interval(s), f"{s['episodes']:,}")
            for s in scores]
    return page.table(("policy", "world", "mean ± std", "95% interval of the mean", "episodes"), rows)


def glossary(config: Config) -> Iterator[str]:
    """What the names of the scores mean."""
    task, repeat = task_of(config), config.collect.repeat
    what = "the frames survived" if task.survival else "the sum of rewards"
    yield f"A return is {what}; the game has {task.fps:g} frames a second."
    yield "tau: the temperature of the dream. The higher it is, the less certain the dream."
    for name in dict.fromkeys([*task.baselines, config.collect.policy]):
        first, *_ = " ".join((inspect.getdoc(task.policies[name]) or "uniform actions").split()).split(". ")
        yield f"random ({name}): {first.rpartition(': ')[2].rstrip('.')}."
    if config.evaluate.other_skills and "skill" in task.settings:
        yield (f"skill: Doom's difficulty. The agent was trained at {config.collect.skill}; at a higher one fireballs "
               "are faster.")
    if repeat > 1:
        yield f"× {repeat}: it acts at every {repeat}th frame, as the controller does."


def settings(config: Config) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Every setting, in sections, as (name, value)."""
    sections = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in TYPED}
    yield "run", [(name, value) for name, value in sections.items() if not is_dataclass(value)]
    yield from ((name, list(leaves(value))) for name, value in sections.items() if is_dataclass(value))


def history(run: Run) -> Iterator[tuple[float, list[dict]]]:
    """Of each round that was scored: the minutes that it and those before it took to collect and train, and its
    scores."""
    minutes = 0.0
    for round in run.until_now:
        minutes += sum(seconds for stage, seconds in round.seconds.items() if stage in LEARNING) / 60
        if (round.report / "scores.json").exists():
            yield minutes, read_scores(round.report / "scores.json")
