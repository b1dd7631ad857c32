# Development targets: developers, hooks and pipelines use only these.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
READY := .venv/.ready
BUILD := build
ARGS ?=

##@ Use it
.PHONY: setup demo up
setup: $(READY) ## create .venv with all dependencies; instant when nothing changed
$(READY): pyproject.toml constraints.txt .ci/setup .ci/uv_install.py
	@.ci/setup
	@touch $@

demo: setup ## run the whole loop once: build pairs, train, gate, promote, serve
	@$(BIN)/sharpline demo $(ARGS)

up: setup ## run every service of the loop until Ctrl-C
	@$(BIN)/sharpline up $(ARGS)

##@ Work on it
.PHONY: test soak repeat mutants check bench format generate pins
# Whole files go to one worker each, so that module fixtures start once. In the order of their names,
# because the files with the fewest tests, which would run last, take longest. One worker more than
# there are cores, because some tests wait for servers. The limit of 90 % is in the second call: in
# the first it would discard the workers' measurements.
PROCESSES := $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 4 ? n + 1 : 4)))
SPREAD := --numprocesses=$(PROCESSES) --dist=loadfile --no-loadscope-reorder
COVERAGE := $(BUILD)/coverage.json
test: setup ## run the tests and print the coverage; ARGS="-k word" runs some, without it
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	@mkdir -p $(BUILD)
	$(BIN)/python -m slipcover --format json --out $(COVERAGE) -m pytest $(SPREAD)
	@$(BIN)/python -m slipcover --merge $(COVERAGE) --format xml --out $(BUILD)/coverage.xml \
		--fail-under 90 || { echo "test: fewer than 90 % of the lines were run"; exit 1; }
endif

soak: setup ## run the tests with their full counts of kills and examples: hours, not minutes
	$(BIN)/python -m pytest --soak --timeout=3600 $(ARGS)

mutants: setup ## list code changes that no test notices: SUBJECT=scheduler chooses one, CORES=1
	@$(BIN)/python .ci/mutants.py $(SUBJECT) $(if $(CORES),--cores $(CORES)) $(ARGS)

repeat: ## run the tests repeatedly: RUNS=10, LOADED=3 of them under load on every core
	@.ci/repeat

CHECKS := style types imports names monitoring k8s pipeline docs
check: setup ## check style, types, import rules, names, manifests, dashboards, alerts, generated docs
	@$(MAKE) --keep-going $(addprefix check-,$(CHECKS)) && echo "check: all of $(CHECKS) passed"

bench: setup ## run the benchmarks
	$(BIN)/sharpline bench --out $(BUILD)/bench.json $(ARGS)
	$(BIN)/python bench/serving_latency.py
	$(BIN)/python bench/serving_throughput.py
	$(BIN)/python bench/serving_overhead.py
	$(BIN)/python bench/serving_overload.py
	$(BIN)/python bench/degradation.py
	$(BIN)/python -m bench.data_speed
	$(BIN)/python bench/training_speed.py --recipe compact_x4
	$(BIN)/python bench/auto_choice.py
	$(BIN)/python bench/jobs.py

format: setup ## format the code with ruff
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

generate: setup ## write the generated files: the dashboard, the PrometheusRule, tables in docs
	$(BIN)/python -m monitoring.build

pins: setup ## write constraints.txt from the packages in .venv
	@{ sed '/^[^#]/,$$d' constraints.txt; $(BIN)/pip freeze --exclude-editable --exclude pip \
		--exclude setuptools --exclude wheel --exclude uv | sed 's/+cpu$$//'; } > constraints.new
	@mv constraints.new constraints.txt

##@ Ship it
.PHONY: k8s images gate promote
k8s: setup ## render every overlay into build/k8s and validate it
	$(BIN)/python k8s/check.py --out $(BUILD)/k8s

images: ## build the container images with docker, podman or buildah; IMAGES="serve" chooses
	@docker/build $(IMAGES)

gate: ## judge a challenger: MODEL=compact_x4 ON=dataset folder
	@.ci/promotion gate

promote: ## make a version champion: MODEL=compact_x4 EVIDENCE=evidence.json
	@.ci/promotion promote

##@ Housekeeping
.PHONY: system clean help
system: ## install the Debian packages that tests use (as root on Debian)
	@.ci/packages

clean: ## remove build and test outputs; .venv and .sharpline stay unless ALL=1
	@rm -rf $(BUILD) dist .pytest_cache .ruff_cache .hypothesis \
		.import_linter_cache *.egg-info
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
	@if [ -n "$(ALL)" ]; then rm -rf .venv .sharpline; fi

help: ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# The parts of `make check`; each prints a remedy on failure.
.PHONY: $(addprefix check-,$(CHECKS))
check-style: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet . \
		|| { echo "style: run 'make format', then fix what ruff still reports"; exit 1; }

check-types: setup
	@$(BIN)/basedpyright || { echo "types: fix the errors above; an ignore states its reason"; exit 1; }

check-imports: setup
	@$(BIN)/lint-imports --no-logo \
		|| { echo "imports: break the chain above, or move the code to another package"; exit 1; }

check-names: setup
	@$(BIN)/python -m pytest -q tests/platform/test_names.py \
		|| { echo "names: use the terms of docs/glossary.md"; exit 1; }

check-monitoring: setup
	@$(BIN)/python -m monitoring.check

check-k8s: setup
	@$(BIN)/python k8s/check.py --out $(BUILD)/k8s --skip-without-kubectl

check-pipeline: setup
	@$(BIN)/python -m pytest -q tests/platform/test_gitlab.py \
		|| { echo "pipeline: .gitlab-ci.yml may only call make targets that exist"; exit 1; }

check-docs: setup
	@$(BIN)/python -m monitoring.build --check
