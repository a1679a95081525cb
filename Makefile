# Two commands do everything: `make book` and `make test`. `make help` lists the rest.
PYTHON ?= python3
PROFILE ?= quick
DATA ?=
CORES ?= 2
PORT ?= 8000
BIN := .venv/bin

.PHONY: help book sweep test lint serve lock clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 8

.venv/.installed: pyproject.toml .requirements.lock
	@start=$$(date +%s); test -x $(BIN)/python || $(PYTHON) -m venv .venv; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[book,test,paper,cluster]' -c .requirements.lock \
	&& echo $$(( $$(date +%s) - start )) > $@

# a data folder has executed notebooks of its own (see KEY in the Snakefile)
book: .venv/.installed  ## run all notebooks and build the book: PROFILE=quick|evening|mini|paper or a .toml file, DATA=folder in DCASE layout
	@start=$$(date +%s); $(BIN)/python -m latentclap.workflow check --profile "$(PROFILE)" --data "$(DATA)" \
	&& $(BIN)/snakemake book --cores $(CORES) --config profile="$(PROFILE)" data="$(DATA)" --quiet rules host reason \
	&& $(BIN)/python -m latentclap.workflow summary "$$(cat "runs/$$(basename "$(PROFILE)" .toml)/executed/latest")" --install .venv/.installed --seconds $$(( $$(date +%s) - start ))

sweep: .venv/.installed  ## every point of Fig. 3 as a job of its own, in parallel
	@$(BIN)/python -m latentclap.workflow check --profile "$(PROFILE)" --data "$(DATA)"
	$(BIN)/snakemake sweep --cores $(CORES) --keep-going --rerun-incomplete --config profile="$(PROFILE)" data="$(DATA)"

test: .venv/.installed  ## the tests
	$(BIN)/python -m pytest -n $(CORES) --dist worksteal

lint: .venv/.installed  ## ruff: lint and format
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

serve: .venv/.installed  ## read the built book at http://localhost:PORT
	$(BIN)/python -m latentclap.book serve --port $(PORT)

lock: .venv/.installed  ## pin the newest versions that go together
	$(BIN)/python -m pip install --quiet uv && $(BIN)/uv pip compile pyproject.toml --all-extras --no-annotate --no-header -o .requirements.lock \
	&& $(BIN)/python data_scripts/environment.py

clean:  ## remove what `make book` made, but not the environment
	rm -rf runs book/_build book/notebooks book/generated book/_static/audio .snakemake
