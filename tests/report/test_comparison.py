"""The comparison of world models: every name in it, intervals as their formulas say, charts of whatever there is."""

import itertools
import warnings

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from tests.report.test_prediction import Walk, toy, walks
from worldmodels.envs import TASKS
from worldmodels.report import comparison as c
from worldmodels.report import comparison_charts as charts
from worldmodels.report import plots
from worldmodels.report.prediction import FRAME_STEPS, HORIZON, prediction
from worldmodels.report.scores import score
from worldmodels.report.statistics import half_width

NAMES = ("plain", "mixture", "state space", "state space, categories", "five of them", "autoencoder + plain",
         "mixture, jointly", "state space, jointly", "state space, 5 heads")
PANELS = (charts.one_step, charts.open_loop, lambda entries: charts.open_loop(entries, "frame_error", "random"),
          charts.reward_calibration, charts.done_calibration, charts.spread_skill, charts.dream_vs_game,
          lambda entries: charts.cost(entries, "dream_steps_per_s"))


def predictions(rng, members, reached=HORIZON, interval=True):
    """Numbers of no meaning in the form of a prediction, of episodes that reach so many steps."""
    nothing = lambda values: [float(v) if k <= reached else None for k, v in enumerate(values, 1)]
    frames = [float(v) if k <= reached else None for k, v in zip(FRAME_STEPS, rng.random(len(FRAME_STEPS)))]
    number = lambda: {"mean": rng.random(), "ci95": [0.0, 1.0] if interval else None}
    probabilities = [0.0005, 0.02, 0.4]
    curves = {f"{name}{half}": nothing(rng.random(HORIZON)) for name in ("z_error", "z_error_of_mean")
              for half in ("", "_half")}
    return {"one_step": {"crps": number(), "v_frame_error": number(), "v_crps": 0.1},
            "open_loop": curves | {"frame_error": frames, "frame_error_half": frames},
            "reward": {"expected": sorted(rng.random(20)), "came": list(rng.random(20)), "half": [0.1] * 20,
                       "explained": rng.random()},
            "done": {"log_loss": rng.random(), "expected": probabilities, "came": probabilities,
                     "count": [2000, 50, 10]},
            "uncertainty": {"spread": sorted(rng.random(10)), "error": list(rng.random(10)), "correlation": 0.5}
            if members else None}


def entries(trainings=1, names=NAMES, episodes=20, members=True, **form):
    rng, found = np.random.default_rng(0), []
    for i, (name, training) in enumerate(itertools.product(names, range(trainings))):
        scores = [score(TASKS["toy"], world, controller, rng.normal(100 * (i + 1), 50, episodes), temperature=None)
                  for world in ("real", "dream") for controller in ("random (held)", "controller")]
        found.append({"name": name, "training": training, "parameters": 1000 * (i + 1), "seconds": 60.0 * (i + 1),
                      "steps": 4000, "dream_steps_per_s": 1e5 / (i + 1), "scores": scores,
                      "prediction": {whose: predictions(rng, members and "5" in name, **form) for whose in c.EPISODES}})
    return found


def controllers(entry, world):
    return next(s for s in entry["scores"] if s["world"] == world and s["controller"] == "controller")


@pytest.mark.parametrize("trainings", (1, 3))
def test_the_table_has_every_name_once(trainings):
    text, marked = c.table(entries(trainings)).splitlines(), c.markdown(entries(trainings)).splitlines()
    assert [line[:25].strip() for line in text[1:10]] == list(NAMES)
    assert [line.split(" | ")[0] for line in marked[2:11]] == [f"| {name}" for name in NAMES]
    assert len({line.count("|") for line in marked[:11]}) == 1 and len({len(line) for line in text[:10]}) == 1


def test_one_training_has_the_interval_of_its_episodes():
    entry = entries(names=("plain",))[0]
    row, game = c.rows([entry])[0], controllers(entry, "real")
    assert row["game"] == game["mean"] and row["game_ci95"] == pytest.approx(game["ci95"])
    assert row["game_of_trainings"] == [game["mean"]]
    assert row["dream"] == controllers(entry, "dream")["mean"] and row["gap"] == row["dream"] - row["game"]


def test_several_trainings_have_the_interval_of_their_means_by_student():
    group = entries(3, names=("plain",))
    means = [controllers(entry, "real")["mean"] for entry in group]
    row, half = c.rows(group)[0], 4.302653 * np.std(means, ddof=1) / 3**0.5
    assert row["game"] == pytest.approx(np.mean(means)) and row["game_of_trainings"] == means
    assert row["game_ci95"] == pytest.approx([np.mean(means) - half, np.mean(means) + half])
    assert row["parameters"] == 2000 and row["seconds"] == 120


def test_student_s_t_covers_the_mean_of_few_normal_numbers_95_times_in_100():
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 10):
        mean, half = c.pool(rng.normal(size=(n, 20_000)))
        assert np.mean(abs(mean) < half) == pytest.approx(0.95, abs=0.006)


@pytest.mark.parametrize("episodes", (1, 9))
def test_too_few_episodes_of_one_training_have_no_interval(episodes):
    made = entries(names=("plain",), episodes=episodes)
    assert c.rows(made)[0]["game_ci95"] is None and "–" in c.table(made)


def test_numbers_of_predictions_are_means_over_trainings_of_each_kind_of_episodes():
    group = entries(2, names=("plain",))
    row = c.rows(group)[0]
    for whose in c.EPISODES:
        of = [entry["prediction"][whose] for entry in group]
        assert row["CRPS"][whose] == pytest.approx(np.mean([p["one_step"]["crps"]["mean"] for p in of]))
        for k in (10, 50):
            expected = np.mean([p["open_loop"]["z_error_of_mean"][k - 1] for p in of])
            assert row[f"z error at {k}"][whose] == pytest.approx(expected)
        for k in (1, 50):
            expected = np.mean([p["open_loop"]["frame_error"][FRAME_STEPS.index(k)] for p in of])
            assert row[f"frame error at {k}"][whose] == pytest.approx(expected)


def test_what_is_not_known_is_a_dash():
    made = entries(reached=20)
    assert np.isnan(c.rows(made)[0]["z error at 50"]["random"]) and "– / –" in c.table(made)
    del made[0]["prediction"]["controller"]
    made[0]["scores"] = []
    assert " / –" in c.table(made).splitlines()[1] and "nan" not in c.table(made) + c.markdown(made)


def test_a_name_looks_the_same_in_a_chart_of_some():
    made = entries()
    looks = charts.styles(made)
    assert len({look["color"] for look in looks.values()}) == len({look["marker"] for look in looks.values()}) == 9
    axis = figure(charts.open_loop(made[4:6], style=looks)).axes[0]
    colours = {line.get_label(): line.get_color() for line in axis.lines}
    assert all(colours[name] == looks[name]["color"] for name in NAMES[4:6])
    assert len(charts.COLOURS) == len(charts.MARKERS) == len(set(charts.COLOURS)) == len(set(charts.MARKERS)) == 10


def figure(*panels):
    made = plots.sheet(panels)
    FigureCanvasAgg(made).draw()
    return made


CASES = {"one training": {}, "two trainings": {"trainings": 2}, "one name": {"names": NAMES[:1]},
         "few episodes": {"episodes": 3, "interval": False}, "short episodes": {"reached": 7},
         "no ensemble": {"members": False}}


@pytest.mark.parametrize("case", CASES)
def test_every_panel_can_be_drawn_of_what_there_is(case):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure(*(panel(entries(**CASES[case])) for panel in PANELS))


def test_panels_leave_out_a_name_without_scores_or_predictions():
    made = entries(trainings=2, names=NAMES[:3])
    made[0]["scores"], made[0]["prediction"] = [], {"random": made[0]["prediction"]["random"]}
    made[2]["scores"] = made[3]["scores"] = []
    made[2]["prediction"] = made[3]["prediction"] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = figure(*(panel(made) for panel in PANELS))
    assert [text.get_text() for text in drawn.axes[1].get_legend().get_texts()][:2] == [NAMES[0], NAMES[2]]


def test_the_done_chart_pools_trainings_by_their_steps():
    made = entries(2, names=("plain",))
    for entry, came, count in zip(made, (0.1, 0.5), (30, 10)):
        entry["prediction"]["controller"]["done"] |= {"expected": [0.35], "came": [came], "count": [count]}
    line = figure(charts.done_calibration(made)).axes[0].lines[0]
    assert line.get_xydata().tolist() == [pytest.approx([0.35, 0.2])]


def test_the_reward_chart_shows_what_came_less_what_was_expected():
    made = entries(names=("plain",))
    reward = made[0]["prediction"]["controller"]["reward"]
    line = figure(charts.reward_calibration(made)).axes[0].lines[0]
    np.testing.assert_allclose(line.get_ydata(), np.array(reward["came"]) - reward["expected"])


def test_bars_of_the_scatter_are_the_intervals_of_the_scores():
    made = entries(names=("plain",))
    axis = figure(charts.dream_vs_game(made)).axes[0]
    across, along = (bar.get_segments()[0] for bar in axis.collections)
    for world, ends in (("dream", across[:, 0]), ("real", along[:, 1])):
        assert ends.tolist() == pytest.approx(controllers(made[0], world)["ci95"])
    assert controllers(made[0], "real")["ci95"][1] - controllers(made[0], "real")["mean"] == pytest.approx(
        half_width(np.array(controllers(made[0], "real")["returns"])), abs=1e-3)


def test_names_of_points_lie_inside_the_axes_and_clear_of_each_other():
    for seed in range(5):
        drawn = plots.sheet([lambda axis, seed=seed: named(axis, np.random.default_rng(seed))], size=(6.8, 4.2))
        canvas = FigureCanvasAgg(drawn)
        canvas.draw()
        inside = drawn.axes[0].get_window_extent()
        boxes = [Text.get_window_extent(text) for text in drawn.axes[0].texts]         # without their arrows
        assert {text.get_text() for text in drawn.axes[0].texts} == set(NAMES)
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes)


def named(axis, rng):
    points = rng.random((9, 2))
    axis.set(xlim=(-0.1, 1.1), ylim=(-0.1, 1.1))
    charts.name_points(axis, [(name, "black", point) for name, point in zip(NAMES, points)])
    plots.finish(axis, "Points", "x", "y")


def test_what_prediction_says_can_be_compared():
    found = prediction(toy(Walk(noise=0.1, uncertainty=lambda z: z.abs().sum(-1))), walks(), 0)
    entry = entries(names=("walk",))[0] | {"prediction": {"random": found, "controller": found}}
    assert not any(np.isnan(value) for row in c.rows([entry]) for score in c.PREDICTED for value in row[score].values())
    figure(*(panel([entry]) for panel in PANELS))
