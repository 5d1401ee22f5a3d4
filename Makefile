# Each edge below is one line between two manifests; read together they are the architecture.
# `make demo` and `make test` set up everything they need by themselves.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RECIPE ?= mini
SET    ?=
SLICE  ?= tests
MINUTES ?= 30
export HF_HUB_OFFLINE ?= 1
export GOMP_SPINCOUNT ?= 30000
export TOKENIZERS_PARALLELISM ?= false

READY  := $(VENV)/.ready
SMOLLM := $(VENV)/.ready-smollm
BROWSE := $(VENV)/.ready-browser
RUN    := $(BIN)/distill

.DEFAULT_GOAL := help
.PHONY: help setup demo reproduce adaptive pilots test test-smollm test-browser test-slow check judge-audit dedup-audit
.PHONY: ledger-audit lm-eval-audit smollm coverage training-kills speed soak storm gpu clean

help: ## What can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

setup: $(READY) ## Create .venv and install the toolkit into it (done by every other target)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.12, say")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(SMOLLM): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,smollm]'
	@touch $@

$(BROWSE): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,browser]'
	@touch $@

demo: $(READY) ## R1 in miniature, end to end, on two CPU cores in under ten minutes
	$(RUN) run --recipe mini
	@echo "open runs/mini/report/index.html"

reproduce: $(READY) ## Walk any recipe: make reproduce RECIPE=mini SET="seed=1"
	$(RUN) run --recipe $(RECIPE) $(foreach s,$(SET),--set '$(s)')

STAGES := problems vary harvest import curate teacher-init student-init student-import sft logits kd on-policy rl quantize bench report
.PHONY: $(STAGES)
$(STAGES): $(READY)
	$(RUN) $@ --recipe $(RECIPE) $(if $(STEP),--step $(STEP)) $(foreach s,$(SET),--set '$(s)')

adaptive: $(READY) ## Adaptive rounds against 16 samples for everyone with the miniature's teacher, two seeds (10 min)
	$(RUN) run --recipe mini --to teacher
	$(RUN) run --recipe adaptive
	$(RUN) run --recipe adaptive --out runs/adaptive-s1 --set seed=1
	$(BIN)/python -m tests.adaptive runs/adaptive runs/adaptive-s1

pilots: $(READY) ## How often a pilot's intervals hold what its harvest took, 2,000 pilots each (after make adaptive)
	$(BIN)/python -m tests.pilots runs/adaptive/adaptive

smollm: $(SMOLLM) ## SmolLM2-135M learns from GSM8K traces, sits its test before and after: MINUTES=30
	$(RUN) run --recipe smollm --minutes $(MINUTES) $(foreach s,$(SET),--set '$(s)')

test: $(READY) ## All tests (set DISTILL_DATA to the benchmark files to run those that need them)
	$(BIN)/python -m pytest

test-smollm: $(SMOLLM) ## Tests that need real SmolLM2 weights; compiles llama.cpp the first time
	$(BIN)/python -m pytest -m smollm

test-browser: $(BROWSE) ## The report page driven in a headless Chromium (CHROMIUM, or one on the PATH)
	$(BIN)/python -m pytest -m browser -rs

test-slow: $(READY) ## Tests left out for their length: every ZeRO configuration, more kills (3 min)
	$(BIN)/python -m pytest -m slow

check: $(READY) ## Format, lint, types, walls
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

judge-audit: $(READY) ## All that docs/judge.md claims, measured: labels, faults, attacks, fuzz, pool, mutation (10 min)
	$(BIN)/python -W ignore -m tests.audit

dedup-audit: $(READY) ## 100,000 duplicates planted among a million prompts: recall, false drops, seconds, memory (10 min)
	$(BIN)/python -m tests.audit_near

ledger-audit: $(READY) ## All that docs/ledger.md claims, through the command line: bits, tails, disks, kills (20 min)
	$(BIN)/python -W ignore -m tests.ledger_audit

coverage: $(READY) ## How often every interval of docs/statistics.md holds the truth, and the power of n problems (3 min)
	$(BIN)/python -m tests.coverage

lm-eval-audit: $(SMOLLM) ## Prompts, answers, verdicts and seconds against lm-evaluation-harness in its own environment (hours)
	$(BIN)/python -W ignore -m tests.lm_eval

training-kills: $(READY) ## Training cut at every file boundary, at random steps and by damage, ended bit for bit (60 min)
	$(BIN)/python -W ignore -m tests.training_audit

speed: $(READY) ## Timings against peers, both sides in one run, rows into docs/speed/*.csv
	$(BIN)/python -m tests.speed

soak: $(READY) ## Five minutes of served load on the engine: 500 requests, cancellations, dropped clients
	$(BIN)/python -W ignore -m tests.soak_engine

storm: $(READY) ## 10,000 requests to servers that fail, refuse and die: exactly once, wasted calls counted (10 min)
	$(BIN)/python -W ignore -m tests.storm

gpu: ## Kernel tests and timings on a GPU machine (python3 with torch and triton is enough)
	$(PYTHON) -m tests.speed.gpu --slice $(SLICE)

clean: ## Remove caches and build leftovers; runs/ and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
