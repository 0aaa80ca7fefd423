"""Ways to act compared: every world model and controller in the table and in the chart, trainings pooled, a combination
that is missing left empty."""

import itertools
import warnings

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from worldmodels.envs import TASKS
from worldmodels.report import plots
from worldmodels.report import ways_to_act as w
from worldmodels.report.scores import score

MODELS, CONTROLLERS = ("gru", "rssm, categories", "own"), ("linear", "actor", "planner", "guided")


def entries(trainings=1, missing=()):
    """The game pays 100 for each model, 10 for each controller and 1 for each training; the dream 1000 more."""
    found = []
    for (m, model), (c, controller), training in itertools.product(enumerate(MODELS), enumerate(CONTROLLERS),
                                                                   range(trainings)):
        mean = 100 * (m + 1) + 10 * c + training
        scores = [score(TASKS["toy"], world, f"{controller}, trained", mean + more + np.array([-5.0, 5.0]),
                        temperature=None) for world, more in (("real", 0.0), ("dream", 1000.0))]
        if (model, controller) not in missing:
            found.append({"model": model, "controller": controller, "training": training,
                          "seconds": 1000.0 * (c + 1) + 10 * training, "decide_ms": 2.0 * (c + 1) + training,
                          "scores": scores})
    return found


def rows(text):
    """The cells of a table in Markdown, without the headings' line."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [lines[0], *lines[2:]]


def drawn(made):
    """The axes of the chart."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plots.sheet([w.matrix(made)], "Ways to act")
        FigureCanvasAgg(figure).draw()
    return figure.axes[0]


def told(axis):
    """What is written in each cell of the chart, by (world model, controller)."""
    names = [[label.get_text() for label in labels] for labels in (axis.get_yticklabels(), axis.get_xticklabels())]
    cells = {}
    for text in axis.texts:
        x, y = text.get_position()
        cells.setdefault((names[0][round(y)], names[1][round(x)]), []).append(text.get_text())
    return cells


@pytest.mark.parametrize("trainings", (1, 3))
def test_the_table_has_a_line_for_each_controller_in_each_world_model(trainings):
    made = entries(trainings)
    wanted = [(model, controller) for model in MODELS for controller in CONTROLLERS]
    assert [tuple(row[:2]) for row in rows(w.markdown(made))[1:]] == wanted
    text = w.table(made).splitlines()[:13]
    assert len({len(line) for line in text}) == 1
    for line, (model, controller) in zip(text[1:], wanted):
        assert line.startswith(model) and controller in line
    assert w.NOTE in w.table(made) and w.NOTE in w.markdown(made)


def test_text_and_markdown_say_the_same():
    made = entries(2)
    assert rows(w.markdown(made)) == w.cells(made)
    for line, cells in zip(w.table(made).splitlines(), w.cells(made)):
        assert line.split() == " ".join(cells).split()


def test_trainings_are_pooled_and_each_is_named():
    head, *lines = w.cells(entries(3))
    line = dict(zip(head, lines[5]))                        # rssm, actor: 210, 211 and 212
    assert (line["game"], line["trainings"], line["dream"]) == ("211", "210, 211, 212", "1211")
    assert (line["seconds"], line["ms"]) == ("2,010", "5.0")
    assert dict(zip(head, w.cells(entries())[1:][5]))["trainings"] == "210"


def test_the_order_is_that_in_which_they_first_appear():
    made = entries(2)[::-1]
    assert [tuple(row[:2]) for row in w.cells(made)[1:]] == [
        (model, controller) for model in MODELS[::-1] for controller in CONTROLLERS[::-1]]


@pytest.mark.parametrize("trainings", (1, 2))
def test_the_chart_has_a_cell_for_each_with_what_the_game_and_the_dream_paid(trainings):
    axis = drawn(entries(trainings))
    assert [label.get_text() for label in axis.get_yticklabels()] == list(MODELS)
    assert [label.get_text() for label in axis.get_xticklabels()] == list(CONTROLLERS)
    cells = told(axis)
    assert cells.keys() == set(itertools.product(MODELS, CONTROLLERS))
    shift = (trainings - 1) / 2
    game, below = cells["own", "planner"]
    assert game == f"{320 + shift:.0f}" and below == f"dream {1320 + shift:.0f}\n{6 + shift:.1f} ms"
    image = axis.images[0].get_array()
    assert image.shape == (3, 4) and image[2, 2] == pytest.approx(320 + shift)
    assert np.unravel_index(image.argmax(), image.shape) == (2, 3)


def test_a_missing_combination_leaves_its_cell_empty():
    missing = {("rssm, categories", "guided"), ("gru", "linear")}
    made = entries(missing=missing)
    assert missing.isdisjoint(tuple(row[:2]) for row in w.cells(made)[1:]) and len(w.cells(made)) == 1 + 10
    axis = drawn(made)
    cells = told(axis)
    assert cells.keys() == set(itertools.product(MODELS, CONTROLLERS)) - missing
    names = [[label.get_text() for label in labels] for labels in (axis.get_yticklabels(), axis.get_xticklabels())]
    assert set(names[0]) == set(MODELS) and set(names[1]) == set(CONTROLLERS)
    image = np.ma.getmaskarray(axis.images[0].get_array())
    assert {(names[0][y], names[1][x]) for y, x in zip(*image.nonzero())} == missing


def test_one_controller_in_one_world_model_can_be_drawn():
    made = entries()[:1]
    assert told(drawn(made)) == {("gru", "linear"): ["100", "dream 1100\n2.0 ms"]}
    assert len(w.cells(made)) == 2
