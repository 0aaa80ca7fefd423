"""V, M and C as ONNX, against torch: onnxruntime says the same, for batches that were not traced with."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.export import main, starts
from worldmodels import runs
from worldmodels.agent import Agent
from worldmodels.controller import CONTROLLERS, PolicySpec
from worldmodels.envs import TASKS
from worldmodels.export import GRAPH_NAMES, controller_graph, export, graphs, memory_graphs, noise_input, write_graph
from worldmodels.memory import GRU, MDNRNN, MEMORIES, RSSM, Ensemble
from worldmodels.memory.noise import draw
from worldmodels.types import State, UserError
from worldmodels.vision import VISIONS
from worldmodels.web.choices import choices

onnxruntime = pytest.importorskip("onnxruntime")

Z, STEPS = 6, 12
CONFIGS = {"gru": [GRU.Config(hidden_size=8)],
           "mdn_rnn": [MDNRNN.Config(hidden_size=8, sees_current_frame=True, head_size=8, restart_input=True,
                                     cell_feature=True)],
           "rssm": [RSSM.Config(hidden_size=8, stochastic_size=4),
                    RSSM.Config(hidden_size=8, latents="categorical", stochastic_size=3, classes=4, prior_heads=3)],
           "ensemble": [Ensemble.Config(members=3, member=RSSM.Config(hidden_size=8, stochastic_size=4))]}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}        # float32 in another order of sums, carried along STEPS


def test_every_kind_of_memory_is_tested():
    assert CONFIGS.keys() == MEMORIES.keys()


def agent_with(config, task="car_racing"):
    torch.manual_seed(1)
    memory = MEMORIES[config.kind](config, Z, TASKS[task].action_size).eval().requires_grad_(False)
    vision = VISIONS["vae"](VISIONS["vae"].Config(channels=2, z_size=Z)).eval().requires_grad_(False)
    return Agent(TASKS[task], vision, memory, "v-m")


def runner(path):
    """call(**inputs) -> outputs by name, of an ONNX file; inputs that the graph does not need are left out."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted, names = {part.name for part in session.get_inputs()}, [part.name for part in session.get_outputs()]

    def call(**inputs):
        given = {name: np.asarray(value) for name, value in inputs.items() if name in wanted}
        return dict(zip(names, session.run(None, given)))

    return call


def named(noise):
    return {noise_input(part): numbers for part, numbers in noise.items()}


@pytest.mark.parametrize("config", [pytest.param(config, id=f"{kind}-{i}") for kind, configs in CONFIGS.items()
                                    for i, config in enumerate(configs)])
def test_a_dream_is_torchs(config, tmp_path):
    """The same start, actions and noise; in mid-dream z is replaced."""
    agent, calls, free = agent_with(config), {}, []
    for name, graph in memory_graphs(agent).items():
        free.append(write_graph(agent, graph, tmp_path / f"{name}.onnx"))
        calls[name] = runner(tmp_path / f"{name}.onnx")
    assert all(free) or isinstance(config, Ensemble.Config)
    memory, B, generator = agent.memory, 3 if all(free) else 1, torch.Generator().manual_seed(5)
    observing, imagining = (draw(size, B, generator, torch.zeros(1)) for size in
                            (memory.observe_noise, memory.imagine_noise))
    z, noise = torch.randn(B, Z, generator=generator), next(observing)
    state, found = memory.initial(z, noise), calls["memory_initial"](z=z, **named(noise))
    for step in range(STEPS):
        assert np.allclose(found["next_features"], state.features, **CLOSE), step
        given = {name.removeprefix("next_"): value for name, value in found.items() if name.startswith("next_")}
        if step == STEPS // 2:
            z, noise = torch.randn(B, Z, generator=generator), next(observing)
            state = memory.correct(state, z, noise)
            found = calls["memory_correct"](**given, z=z, **named(noise))
            given = {name.removeprefix("next_"): value for name, value in found.items()}
        action, noise, tau = torch.rand(B, 3, generator=generator), next(imagining), 0.8 + 0.1 * step
        imagined = memory.imagine(state, action, tau, noise)
        found = calls["memory_step"](**given, action=action, temperature=np.float32(tau), **named(noise))
        state = imagined.state
        for name, wanted in (("z", memory.latent(state)), ("reward", imagined.reward), ("p_done", imagined.p_done)):
            assert np.allclose(found[name], wanted, **CLOSE), (step, name)


def test_a_v_that_was_trained_in_bfloat16_is_exported_in_float32():
    agent = agent_with(CONFIGS["gru"][0])
    inputs = {"encoder": torch.full((2, 64, 64, 3), 200, dtype=torch.uint8), "decoder": torch.ones(2, Z) / 3}

    def results():
        made = graphs(agent, None)
        return [output for name, example in inputs.items() for output in made[name].function(example)]

    wanted = results()
    agent.vision.config = replace(agent.vision.config, precision="bfloat16")
    assert all(map(torch.equal, results(), wanted)) and agent.vision.config.precision == "bfloat16"


@pytest.mark.parametrize("kind", [kind for kind, cls in CONTROLLERS.items() if hasattr(cls, "size")])
def test_a_controller_acts_as_torchs(kind, tmp_path):
    agent = agent_with(CONFIGS["mdn_rnn"][0])
    config = CONTROLLERS[kind].Config()
    if not callable(getattr(CONTROLLERS[kind], "act", None)):
        pytest.skip("plans")
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((1, agent.parameter_count(config))).astype(np.float32)
    policy = agent.policy_of(PolicySpec(config, {"parameters": rows}))
    features = memory_graphs(agent)["memory_step"].inputs["features"]
    write_graph(agent, controller_graph(policy, features), tmp_path / "c.onnx")
    features = torch.from_numpy(rng.standard_normal((5, features.shape[1])).astype(np.float32))
    policy.reset(range(5))
    wanted = policy(State(features, ()))
    assert np.allclose(runner(tmp_path / "c.onnx")(features=features)["action"], wanted, **CLOSE)


def test_a_planner_is_refused(tmp_path):
    agent = agent_with(CONFIGS["gru"][0])
    planner = agent.policy_of(PolicySpec(CONTROLLERS["cem"].Config(), {"parameters": np.zeros((1, 0), np.float32)}))
    with pytest.raises(UserError, match="plans"):
        controller_graph(planner, torch.zeros(2, 14))


@pytest.mark.parametrize("kind", VISIONS)
def test_v_sees_and_draws_as_torchs(kind, tmp_path):
    torch.manual_seed(0)
    vision = VISIONS[kind](VISIONS[kind].Config(channels=4, z_size=Z)).eval().requires_grad_(False)
    agent = Agent(TASKS["toy"], vision, agent_with(CONFIGS["gru"][0]).memory, "v-m")
    for name, graph in graphs(agent, None).items():
        if name in ("encoder", "decoder"):
            write_graph(agent, graph, tmp_path / f"{name}.onnx")
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    found, posterior = runner(tmp_path / "encoder.onnx")(frames=frames), vision.encode(torch.from_numpy(frames))
    assert np.allclose(found["mean"], posterior.mean, **CLOSE)
    assert ("log_var" in found) == (posterior.log_var is not None)
    if posterior.log_var is not None:
        assert np.allclose(found["log_var"], posterior.log_var, **CLOSE)
    drawn = runner(tmp_path / "decoder.onnx")(z=posterior.mean)["frames"]
    wanted = vision.decode(posterior.mean).numpy()
    assert drawn.dtype == np.uint8 and np.abs(drawn.astype(int) - wanted).max() <= 1        # of 255: rounding
    assert (drawn == wanted).mean() > 0.99


def test_a_published_run_dreams_and_acts_as_in_torch(tmp_path):
    """With the same noise, and the controller's actions in torch."""
    choice = choices([runs.PUBLISHED])["car_racing/laptop"]
    agent = choice.agent
    export(agent, choice.controller, tmp_path, choice.described())
    about = json.loads((tmp_path / "export.json").read_text())
    assert set(about["graphs"]) == set(GRAPH_NAMES) and about["digest"] == agent.digest
    calls = {graph: runner(tmp_path / f"{graph}.onnx") for graph in about["graphs"]}
    memory, generator, policy = agent.memory, torch.Generator().manual_seed(3), agent.policy_of(choice.controller)
    policy.reset([0])
    z, chance = torch.randn(1, memory.z_size, generator=generator), draw(memory.imagine_noise, 1, generator,
                                                                        torch.zeros(1))
    state, found = memory.initial(z), calls["memory_initial"](z=z)
    for _ in range(30):
        noise, action = next(chance), policy(state)
        assert np.allclose(calls["controller"](features=found["next_features"])["action"], action, atol=1e-3)
        imagined = memory.imagine(state, action, 1.0, noise)
        given = {part.removeprefix("next_"): value for part, value in found.items() if part.startswith("next_")}
        found = calls["memory_step"](**given, action=action, temperature=np.float32(1), **named(noise))
        state = imagined.state
        assert np.allclose(found["z"], memory.latent(state), atol=1e-3)     # rounding grows along a dream
        assert np.allclose(found["p_done"], imagined.p_done, atol=1e-3)
    frames, wanted = calls["decoder"](z=found["z"])["frames"], agent.decode(memory.latent(state))
    assert np.abs(frames.astype(int) - wanted).max() <= 2


def say(monkeypatch, capsys, *arguments):
    """What the command says, and its exit code."""
    monkeypatch.setattr(sys, "argv", ["export", *arguments])
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr()


def test_the_command_exports_a_run_and_refuses_what_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.export.export", lambda *given: given[2].mkdir())
    code, said = say(monkeypatch, capsys, "--task", "car_racing", "--out", "here")
    assert code == 0 and said.out.startswith("in here/") and not said.err
    for wrong in (["--run", "nowhere"], ["--format", "tflite"], ["--format", "page", "--out", "here"]):
        code, said = say(monkeypatch, capsys, *wrong)
        assert code == 2 and said.err.startswith("error: ") and said.err.count("\n") == 1


def test_the_starts_of_the_page_are_recorded_first_frames():
    choice = choices([runs.PUBLISHED])["take_cover/laptop"]
    found = starts(choice)
    assert np.shape(found["mean"]) == (64, 32) and found.keys() <= {"mean", "log_var"}
    assert np.isfinite(found["mean"]).all()
