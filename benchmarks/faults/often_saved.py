"""`python -m pipeline` with a checkpoint at every line of the log, so that a short run has many to go on from."""

import signal

from pipeline.__main__ import pipeline
from pipeline.command import main
from worldmodels import training


def run():
    training.CHECKPOINT_EVERY = 0.0
    signal.signal(signal.SIGINT, signal.default_int_handler)        # what a shell starts in the background ignores it
    main(pipeline)


if __name__ == "__main__":
    run()
