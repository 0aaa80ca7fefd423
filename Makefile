# make demo: an agent that learns inside its own dream, in 10 to 15 minutes on two cores.
# make lint: ruff and mypy. make test: the tests. make docs: the documentation as a site, docs/_build/html/index.html.
# make play: docs/play/ for any web server; it needs npm, which brings onnxruntime-web.
# Each creates .venv and installs into it first; it needs Python >= 3.10, git and make, and no display. Python compiles
# what it imports: to compile all that is installed would be a third of the installing.

PYTHON ?= python3
TASK ?= take_cover
BIN = .venv/bin

.PHONY: demo lint test play docs install clean

demo: install
	$(BIN)/python -m pipeline --task $(TASK) --preset quick

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile
	$(BIN)/python -m pipeline --preset smoke        # which the notebooks open
	WORLDMODELS_RUN=smoke $(BIN)/python -m pytest -n 2 --dist loadfile --nbmake notebooks

play: install
	$(BIN)/python -m pipeline.export --format page

docs: install
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e .[docs]
	rm -rf docs/_build docs/api
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -c docs -d docs/_build/doctrees . docs/_build/html

install: .venv/installed

.venv/installed: setup.cfg constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e .[test,lint]
	touch $@

clean:
	rm -rf .venv build docs/_build docs/api *.egg-info
