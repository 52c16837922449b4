# What people type. Everything runs in .venv, made from requirements.txt, whose hashes pip checks.
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
INSTALLED := .venv/installed
export PATH := $(BIN):$(PATH)

.PHONY: help run test check ui ray clean requirements

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: $(INSTALLED) ## Shrink the autoencoder that params.yaml describes
	python -m flows.compress

test: $(INSTALLED) ## Run all tests
	python -m pytest

check: $(INSTALLED) ## Lint, format, types, import direction, stages' dependencies
	ruff check
	ruff format --check
	mypy
	python -m pytest -q tests/test_architecture.py

ui: $(INSTALLED) ## Prefect's UI on this machine, with the flow ready to start in it
	python -m flows.serve

ray: $(INSTALLED) ## Install Ray too (240 MB), for `python -m flows.study --engine ray`
	python -m pip install --quiet --no-deps --require-hashes -r requirements-ray.txt

clean: ## Remove what runs made here, and .venv; DVC's cache and your data stay
	rm -rf .venv .scratch .mypy_cache .pytest_cache .ruff_cache .hypothesis build dvc_plots
	rm -rf data/prepared models/*/ reports
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

PIN := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-annotate --quiet --custom-compile-command "make requirements"

requirements: ## Pin again what pyproject.toml asks for (needs uv)
	$(PIN) --extra pipeline --extra s3 --extra study --extra dask --extra dev \
		--output-file requirements.txt
	# What Ray takes beside them.
	$(PIN) --extra pipeline --extra ray --constraint requirements.txt --output-file requirements-ray.txt \
		$$(sed -n 's/^\([a-z0-9._-]*\)==.*/--no-emit-package \1/p' requirements.txt)

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; name one with make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	# The file is complete, so pip need not resolve: old ones stumble over extras in hash mode.
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m tasks.offline_plots
	@touch $(INSTALLED)
