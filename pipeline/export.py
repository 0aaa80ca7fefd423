"""Beside the stages: V, M and C of a finished run as ONNX, or a page that dreams in the visitor's browser by itself."""

import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.overview import find_run, title
from worldmodels import runs
from worldmodels.commandline import check_ranges, errors_in_one_line, parsed
from worldmodels.export import export
from worldmodels.files import write_atomic, write_json
from worldmodels.latents import open_latents
from worldmodels.types import UserError
from worldmodels.web.choices import Choice, choices

STARTS = 64             # first frames that the page's dreams begin at
ONNXRUNTIME = "1.30.0"  # the version of onnxruntime-web
# what a page needs of it
SCRIPTS = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


@dataclass(frozen=True)
class ExportConfig:
    task: str = "take_cover"
    """The game."""
    run: str = runs.DEFAULT
    """A run's name, <task>/<run>, or its folder."""
    data: str = "data"
    """Where your runs are kept; the published ones are always there."""
    format: Literal["onnx", "page"] = "onnx"
    """onnx: V, M and C of the run. page: the published runs and what else docs/play/ needs to work without a server."""
    out: str = ""
    """The folder to write into; export/<task>/<run>, or docs/play, if not given."""


def export_run(config: ExportConfig):
    """V, M and C of one run -> encoder.onnx, ..., export.json."""
    run = find_run(config.run if "/" in config.run else f"{config.task}/{config.run}", Path(config.data))
    choice = Choice(title(run), run.last("memory"), run)
    folder = Path(config.out or Path("export") / title(run))
    export(choice.agent, choice.controller, folder, choice.described())
    print(f"in {folder}/: {', '.join(sorted(path.name for path in folder.glob('*')))}")


def export_page(config: ExportConfig):
    """models/, ort/ and runs.json beside the page."""
    folder = Path(config.out or "docs/play")
    if not (folder / "play.js").exists():
        raise UserError(f"--out {folder}: must be a copy of docs/play, which has the page")
    bring_runtime(folder / "ort")
    found = {name: choice for name, choice in choices([runs.PUBLISHED]).items() if choice.run == choice.recorded}
    for name, choice in found.items():
        print(f"exporting {name}", flush=True)
        export(choice.agent, choice.controller, folder / "models" / name, choice.described())
        write_json(folder / "models" / name / "starts.json", starts(choice))
    write_json(folder / "runs.json", {"backend": "onnx", "runs": [choice.described() for choice in found.values()]})
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    print(f"{folder}: {size:.1f} MB, to be put on any web server; here: python -m http.server --directory {folder}")


def starts(choice: Choice) -> dict[str, list]:
    """The latents that dreams begin at, as "mean" and "log_var" [N, Z]: first frames of recorded episodes."""
    latents = open_latents(choice.recorded, 0, choice.agent.vision_digest)
    first = [latents.episode(number) for number in range(min(STARTS, len(latents.lengths)))]
    arrays = {"mean": np.stack([episode.mu[0] for episode in first])}
    if choice.agent.memory.config.latent == "sample" and first[0].log_var is not None:
        arrays["log_var"] = np.stack([episode.log_var[0] for episode in first])
    return {name: array.astype(float).round(4).tolist() for name, array in arrays.items()}


def bring_runtime(folder: Path):
    """onnxruntime-web's files, by npm, if they are not there already."""
    version = folder / "version.txt"
    if version.exists() and version.read_text() == ONNXRUNTIME:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        try:
            subprocess.run(["npm", "pack", "--silent", f"onnxruntime-web@{ONNXRUNTIME}"], cwd=place, check=True,
                           stdout=subprocess.DEVNULL)
        except FileNotFoundError:
            raise UserError("npm is needed, which brings onnxruntime-web: install Node.js") from None
        except subprocess.CalledProcessError:
            raise UserError(f"npm could not bring onnxruntime-web@{ONNXRUNTIME}: is there a network?") from None
        with tarfile.open(next(Path(place).glob("*.tgz"))) as package:
            for name in SCRIPTS:
                write_atomic(folder / name, package.extractfile(f"package/dist/{name}").read())
    write_atomic(version, ONNXRUNTIME.encode())


def main():
    """The command line."""
    with errors_in_one_line("makes everything anew"):
        config = parsed(ExportConfig(), sys.argv[1:], __doc__)
        check_ranges(config)
        {"onnx": export_run, "page": export_page}[config.format](config)


if __name__ == "__main__":
    main()
