# One line per target; CI calls the same targets. `make help` lists them.
PYTHON ?= python3
NAME ?= ioffe_fig1
BUDGET ?= 100m
BIN := .venv/bin
.DEFAULT_GOAL := help

.PHONY: help book pdf test matrix check quick records judge serve fix clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1	\2/' | expand -t 18

.venv/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, found: $$($(PYTHON) --version). Try: make PYTHON=python3.11 book"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python cannot make virtual environments here. On Debian: apt-get install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

book: .venv/.installed ## run the notebooks, judge the claims, build the pages
	@$(BIN)/bnbook build

pdf: book ## print the built pages as one PDF beside them; needs Chromium
	@$(BIN)/bnbook pdf

test: .venv/.installed ## run all tests that this machine can run, the fast ones on every core first
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "not (slow or browser or network)"; fast=$$?; \
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "slow or browser or network" && exit $$fast

matrix: .venv/.installed ## run the tests that compute as other processors would, on one thread and two
	@$(BIN)/python -m tests.matrix

check: .venv/.installed ## format, lint, types, import contracts, spelling, workflows
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/zizmor --offline --quiet .github/workflows

fix: .venv/.installed ## format the code and mend what lint can mend
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

quick: .venv/.installed ## run one experiment at the quick profile: make quick NAME=ioffe_fig1
	@$(BIN)/bnbook run $(NAME) --profile quick

records: .venv/.installed ## record what queue.toml lists, for a time: make records BUDGET=100m
	@$(BIN)/bnbook queue run --budget $(BUDGET)

judge: .venv/.installed ## make results/claims and the README's table from the recorded tables
	@$(BIN)/bnbook judge

serve: book ## build, then show the book at http://localhost:8000
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html 8000

clean: ## remove everything that was built, except .venv
	rm -rf _build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
