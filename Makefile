# The one door for development: people, hooks and pipelines call these targets and nothing else.
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
setup: $(READY) ## make .venv with everything in it; instant when nothing changed
$(READY): pyproject.toml constraints.txt .ci/setup
	@.ci/setup
	@touch $@

demo: setup ## run the whole loop once, for real: pictures to promoted models to served pictures
	@$(BIN)/sharpline demo $(ARGS)

up: setup ## the same, and stay up until Ctrl-C
	@$(BIN)/sharpline up $(ARGS)

##@ Work on it
.PHONY: test soak repeat check bench format generate pins
# Whole files go to one process each, so that what a file shares is started once. In the order of
# their names, because those with the fewest tests, which would come last, take longest. One process
# more than there are cores, because some tests wait for servers. The limit of 90 % belongs to the
# second call: beside the first it would lose what the processes have measured.
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

soak: setup ## the tests with their full counts: hours, not minutes
	$(BIN)/python -m pytest --soak --timeout=3600 $(ARGS)

repeat: ## run the tests again and again: RUNS=10, LOADED=3 of them beside a load on every core
	@.ci/repeat

CHECKS := style types imports monitoring k8s pipeline docs
check: setup ## style, types, import rules, manifests, dashboards, alerts, generated pages
	@$(MAKE) --keep-going $(addprefix check-,$(CHECKS)) && echo "check: all of $(CHECKS) passed"

bench: setup ## measure the speeds that the README states
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

format: setup ## lay the code out in the house style
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

generate: setup ## rewrite what is made from code: the dashboard, the PrometheusRule, tables in docs
	$(BIN)/python -m monitoring.build

pins: setup ## rewrite constraints.txt from what .venv holds
	@{ sed '/^[^#]/,$$d' constraints.txt; $(BIN)/pip freeze --exclude-editable --exclude pip \
		--exclude setuptools --exclude wheel | sed 's/+cpu$$//'; } > constraints.new
	@mv constraints.new constraints.txt

##@ Ship it
.PHONY: k8s images gate promote
k8s: setup ## render every overlay into build/k8s and validate it
	$(BIN)/python k8s/check.py --out $(BUILD)/k8s

images: ## build the container images with docker, podman or buildah; IMAGES="serve" chooses
	@docker/build $(IMAGES)

gate: ## judge a challenger: MODEL=compact_x4 ON=dataset folder
	@.ci/promotion gate

promote: ## make a proven version champion: MODEL=compact_x4 EVIDENCE=evidence.json
	@.ci/promotion promote

##@ Housekeeping
.PHONY: system clean help
system: ## install the Debian packages that tests use, where this is root on Debian
	@.ci/packages

clean: ## remove what builds and tests leave; .venv and .sharpline stay unless ALL=1
	@rm -rf $(BUILD) dist .pytest_cache .ruff_cache .hypothesis \
		.import_linter_cache *.egg-info
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
	@if [ -n "$(ALL)" ]; then rm -rf .venv .sharpline; fi

help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# One part of `make check` each; every one ends with what to do about it.
.PHONY: $(addprefix check-,$(CHECKS))
check-style: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet . \
		|| { echo "style: run 'make format', then mend by hand what ruff still names"; exit 1; }

check-types: setup
	@$(BIN)/basedpyright || { echo "types: mend the lines above; an ignore states its reason"; exit 1; }

check-imports: setup
	@$(BIN)/lint-imports --no-logo \
		|| { echo "imports: break the chain above, or move the code to the room it belongs to"; exit 1; }

check-monitoring: setup
	@$(BIN)/python -m monitoring.check

check-k8s: setup
	@$(BIN)/python k8s/check.py --out $(BUILD)/k8s --skip-without-kubectl

check-pipeline: setup
	@$(BIN)/python -m pytest -q tests/platform/test_gitlab.py \
		|| { echo "pipeline: .gitlab-ci.yml may only call make targets that exist"; exit 1; }

check-docs: setup
	@$(BIN)/python -m monitoring.build --check
