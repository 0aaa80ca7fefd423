"""All stages in order; finished ones are skipped."""

from pipeline.collect import collect
from pipeline.command import all_rounds, in_the_real_round, main, say
from pipeline.encode import encode
from pipeline.evaluate import evaluate
from pipeline.presets import Config
from pipeline.train_controller import train_controller
from pipeline.train_jointly import train_jointly
from pipeline.train_memory import train_memory
from pipeline.train_vision import train_vision
from worldmodels.runs import Run

STAGED = (collect, train_vision, encode, train_memory, train_controller, evaluate)
JOINTLY = (collect, train_jointly, encode, train_controller, evaluate)


def pipeline(config: Config, run: Run):
    """All stages in order, --rounds times; finished ones are skipped."""
    rounds = all_rounds(config)
    for round in range(1, rounds + 1):
        stages = JOINTLY if config.training == "jointly" and round == 1 else STAGED
        if in_the_real_round(config, round):
            stages = STAGED[STAGED.index(train_controller):]
        for number, stage in enumerate(stages, 1):
            where = f"round {round}/{rounds}, " * (rounds > 1) + f"{number}/{len(stages)}"
            say(f"\n[{where}] {stage.__doc__.split(':', 1)[1].strip()}")
            stage(config, run.at(round))


if __name__ == "__main__":
    main(pipeline)
