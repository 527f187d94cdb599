# Everything that is done with this project; `make help` lists it.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
INSTALLED := .venv/.installed
# containers often set it, and each program would compile the libraries anew: 10 s instead of 4
unexport PYTHONDONTWRITEBYTECODE
# workers of one thread each, one more than there are cores, since some tests wait for programs
WORKERS = $(shell $(PYTHON) -c 'import os; print(min(8, 1 + (os.cpu_count() or 1)))')
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS)

.DEFAULT_GOAL := help
.PHONY: help train compare study results notebook test test-all test-long lint format tensorboard clean

help: ## list what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  ARGS="..." passes flags on: make train ARGS="--accelerator cpu --max_epochs 3"'

$(INSTALLED): requirements.txt
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 15) or sys.exit("Python 3.11 to 3.14 is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --requirement requirements.txt
	@touch $@

train: $(INSTALLED) ## train the network, test it, and print a summary
	$(BIN)/python scripts/train.py $(ARGS)

test: $(INSTALLED) ## run the quick tests (GPA_CSV=path/to/GPA.csv includes those on the real table)
	$(PYTEST) --dist loadfile -m "not slow and not long" $(ARGS)

test-all: $(INSTALLED) ## run the quick and the slow tests, and a twentieth of the long ones
	LONG_SHARE=0.05 $(PYTEST) --dist worksteal -m "" $(ARGS)

test-long: $(INSTALLED) ## run the long fault tests, up to an hour (LONG_SHARE=0.05: that share of them)
	$(BIN)/python -m pytest -s -m long $(ARGS)

lint: $(INSTALLED) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## format the code
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

compare: $(INSTALLED) ## compare settings: make compare ARGS='"" "--dropout 0.5" --seeds 5'
	$(BIN)/python scripts/compare.py $(ARGS)

study: $(INSTALLED) ## reproduce the lecture's claims: make study ARGS="list", ARGS="polynomial"
	$(BIN)/python scripts/study.py $(ARGS)

results: $(INSTALLED) ## put the studies' reports and figures into docs/results.md
	mkdir -p docs/results
	set -e; { printf '# What the lecture says, measured\n\n'; \
	  printf 'Made by `python scripts/study.py all`, `scripts/compare.py` and `make results`, in the order of the lecture.\n'; \
	  for name in $$($(BIN)/python scripts/study.py list | cut -d ' ' -f 1); do \
	    cp lightning_studies/$$name/figure.png docs/results/$$name.png; \
	    echo; \
	    sed -e 's/^#/##/' -e "s#(figure.png)#(results/$$name.png)#" -e 's/^Every number: .*/Every number: `results.csv`, beside the report that the command writes/' \
	      lightning_studies/$$name/report.md; \
	  done; \
	  cp lightning_studies/compare/figure.png docs/results/compare.png; \
	  echo; \
	  sed -e 's/^#/##/' -e 's/^## Comparison/## Four settings, compared/' -e "s#(figure.png)#(results/compare.png)#" \
	    -e 's/^Every run: .*/Every run: `results.csv`, beside the report that the command writes/' lightning_studies/compare/report.md; \
	} > docs/results.md.new && mv docs/results.md.new docs/results.md

notebook: $(INSTALLED) ## execute docs/lecture.ipynb anew, on the synthetic twin unless there is a data/GPA.csv
	GPA_CSV= $(BIN)/jupyter-execute --inplace docs/lecture.ipynb

tensorboard: $(INSTALLED) ## show the curves at http://localhost:6006
	$(BIN)/tensorboard --logdir lightning_logs --host 127.0.0.1 $(ARGS)

clean: ## remove the virtual environment and caches; runs in lightning_logs stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
