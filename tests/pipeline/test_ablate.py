"""The ablation on a finished toy run."""

import torch
from PIL import Image

from pipeline.ablate import ABLATIONS, ablate
from pipeline.command import main
from worldmodels.agent import load_agent
from worldmodels.files import load_arrays, read_json
from worldmodels.memory import MEMORIES
from worldmodels.report.scores import read_scores
from worldmodels.runs import Run


def test_each_controller_is_trained_on_what_is_left_and_scored_once(copied, capsys):
    folder, arguments = copied
    main(ablate, arguments)
    scores = read_scores(folder / "report" / "ablation.json")
    assert [score["controller"] for score in scores] == list(ABLATIONS)
    assert all(score["world"] == "real" and score["episodes"] == 2 for score in scores)
    Image.open(folder / "report" / "ablation.png").verify()
    agent, found = load_agent(Run(folder)), {}
    for place in (folder / "ablation").iterdir():
        tensors, info = load_arrays(place / "checkpoints" / "controller.safetensors")
        found[place.name] = len(tensors["parameters"]), info["agent_digest"].split("-")
        assert info["world"] == "real" and info["learner"]["generations"] == 2
    z, features = agent.vision.config.z_size, sum(agent.memory.feature_sizes.values())
    assert {name: size for name, (size, _) in found.items()} == {
        "z": z + 1, "z-hidden-layer": (z + 1) * 40 + 41, "z-and-h": features + 1, "untrained-M": features + 1,
        "untrained-V-and-M": features + 1}
    vision, memory = agent.digest.split("-")
    assert found["z"][1] == [vision, memory] and found["untrained-M"][1][0] == vision
    assert found["untrained-M"][1][1].startswith("untrained") and found["untrained-V-and-M"][1][0].startswith("untr")
    before = read_json(folder / "report" / "ablation.json")
    capsys.readouterr()
    main(ablate, arguments)
    assert read_json(folder / "report" / "ablation.json") == before and "real game" not in capsys.readouterr().err


def test_untrained_parts_are_as_they_began_and_the_others_as_trained(copied):
    agent = load_agent(Run(copied[0]))
    without = agent.untrained(("memory",), 3)
    assert without.vision is agent.vision
    torch.manual_seed(3)
    begun = MEMORIES[agent.memory.config.kind](agent.memory.config, agent.memory.z_size, agent.memory.action_size)
    for a, b, c in zip(without.memory.parameters(), begun.parameters(), agent.memory.parameters()):
        assert torch.equal(a, b) and not torch.equal(a, c)
    assert not any(parameter.requires_grad for parameter in without.memory.parameters())


def test_an_unknown_ablation_is_named(fails, copied):
    assert "z, hidden layer" in fails(ablate, *copied[1], "--ablate.which", "h")
