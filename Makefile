# Every target works on a fresh machine with Python >= 3.11 (with venv) and make: the first one that
# needs it sets up .venv in this checkout, and later runs reuse it.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint wheel docs pictures supernet-pictures clean

PYTHON ?= python3
PYTEST_ARGS ?=

BIN := .venv/bin
READY := .venv/ready
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

help:
	@echo "make demo    train a small network on a data set that is built in, then halve its FLOPs"
	@echo "make test    run the tests               (PYTEST_ARGS='-k name' runs some of them)"
	@echo "make lint    ruff, its formatter, mypy"
	@echo "make wheel   build dist/*.whl"
	@echo "make docs    build the documentation into site/"
	@echo "make clean   remove .venv and everything that the other targets wrote"
	@echo "PYTHON=...   the Python that .venv is made with (now: $(PYTHON))"

demo: $(READY)
	$(BIN)/prune zoo train resnet20 --data digits -o demo/resnet20.pt --force
	$(BIN)/prune compress demo/resnet20.pt --flops 0.5 -o demo/resnet20-half --force
	@echo "The trained network is demo/resnet20.pt; the smaller one and its report are in demo/resnet20-half."

# Two workers with one math thread each: the threads that torch starts by itself would make the workers
# fight for the cores, and one thread adds up a sum in the same order every time.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

# build/ goes first: setuptools would put stale modules that lie there into the wheel.
wheel: $(READY)
	rm -rf build dist
	$(BIN)/python -m build --quiet --wheel --no-isolation .

# Anything that would be a warning, such as a link to a page that is not there, is an error.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

.venv/docs: $(READY)
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[docs]'
	@touch .venv/docs

# The pictures of the documentation are those of the report of `make demo`.
PICTURES := network search plans sensitivity-accuracy tuning-accuracy
pictures: $(READY)
	$(BIN)/prune report demo/resnet20-half --plots demo/plots --force -o demo/report.html
	mkdir -p docs/pictures
	for name in $(PICTURES); do cp demo/plots/$$name.svg docs/pictures/; done

# The picture of docs/supernet.md: a supernet of a small transformer, and the front that a search finds in it.
supernet-pictures: $(READY)
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[supernet]'
	$(BIN)/prune zoo train vit_tiny --data digits --epochs 15 --lr 0.002 --batch-size 32 -o demo/vit.pt --force
	$(BIN)/prune supernet build demo/vit.pt -o demo/supernet --force
	$(BIN)/prune supernet train demo/supernet --epochs 5 --lr 0.002 --batch-size 32
	$(BIN)/prune supernet search demo/supernet --pareto --agent nsga2 --trials 80 \
		--plot docs/pictures-supernet/front.svg

clean:
	rm -rf .venv build dist site demo *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so a set-up that was interrupted starts over. constraints.txt goes with
# every install; setuptools comes first and isolation is off so that the build uses the pinned one.
$(READY): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	    echo "error: no '$(PYTHON)' on this machine."; \
	    echo "hint: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11 ..."; \
	    exit 1; } >&2
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: Python 3.11 or newer is needed; '$(PYTHON)' is `"$(PYTHON)" --version 2>&1`."; \
	    echo "hint: name a newer one: make PYTHON=/path/to/python3.11 ..."; \
	    exit 1; } >&2
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "error: '$(PYTHON)' cannot make virtual environments (its module venv or ensurepip is missing)."; \
	    echo "hint: install it (on Debian and Ubuntu it is the system package python3-venv) and run make again."; \
	    exit 1; } >&2
	@echo "setting up .venv (once; torch is large, so this takes minutes) ..."
	@"$(PYTHON)" -m venv --clear .venv
	@echo "  installing prune and its tools, versions from constraints.txt ..."
	@$(PIP) install -c constraints.txt setuptools
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $(READY)
	@echo "  done: .venv"
