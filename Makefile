# Tessera. 'make' alone explains the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help up down status logs doctor test chaos demo-bots conformance check fmt bench simulate lock clean venv

BIN := .venv/bin
# A test run must not touch the platform of the developer who starts it.
TEST_ENV := env -u DATABASE_URL -u RAY_ADDRESS -u TESSERA_HOME -u TESSERA_URL -u TESSERA_API_KEY -u TESSERA_PORT \
	-u TESSERA_CLUSTER -u TESSERA_NOOP

help: ## Explain the targets
	@printf 'Tessera: your own machines as an AI-inference service.\n\n'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16
	@printf '\nBegin with: make up && .venv/bin/tessera generate image "a lighthouse in a storm, oil painting"\n'
	@printf 'Settings:   TESSERA_HOME, TESSERA_PORT, DATABASE_URL, RAY_ADDRESS, TESSERA_CLUSTER; PYTHON for make itself\n'

up: venv ## Start everything on this machine and prove it by a job; safe to repeat
	@$(BIN)/tessera up

down: venv ## End what 'make up' has started; the data stays
	@$(BIN)/tessera down

status: venv ## Show what runs, where it listens, what memory it takes
	@$(BIN)/tessera status

logs: venv ## Follow the logs of all parts
	@$(BIN)/tessera logs --follow

doctor: venv ## Check this machine and list every open port
	@$(BIN)/tessera doctor

test: venv ## Run all tests; they bring their own Postgres and Ray
	@$(TEST_ENV) $(BIN)/python -m pytest

chaos: venv ## Kill parts of a platform of its own for 15 minutes (docs/chaos.md); CHAOS='--minutes 60 --seed 7'
	@$(TEST_ENV) $(BIN)/python -m tests.chaos $(CHAOS)

conformance: venv ## Hold every engine against the same cases; COMFYUI_URL=… KOBOLDCPP_URL=… add real servers
	@$(TEST_ENV) COMFYUI_URL="$(COMFYUI_URL)" COMFYUI_COMMAND="$(COMFYUI_COMMAND)" COMFYUI_FOLDER="$(COMFYUI_FOLDER)" \
		KOBOLDCPP_URL="$(KOBOLDCPP_URL)" KOBOLDCPP_COMMAND="$(KOBOLDCPP_COMMAND)" KOBOLDCPP_FOLDER="$(KOBOLDCPP_FOLDER)" \
		$(BIN)/python -m tests.conformance $(CONFORMANCE)

fuzz: venv ## Send the API 10,000 odd requests on a server of its own; FUZZ='--requests 50000 --seed 7'
	@$(TEST_ENV) $(BIN)/python -m tests.fuzz $(FUZZ)

describe: venv ## Write docs/openapi.json and docs/routes.md from the API
	@$(BIN)/python -m tests.described

demo-bots: venv ## Talk to all twelve bots on a platform of their own: build/demo-bots/index.html
	@env -u DATABASE_URL -u RAY_ADDRESS -u TESSERA_HOME $(BIN)/python -m tests.demo_bots

check: venv ## Lint, format, types and architecture: what needs no process
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(TEST_ENV) $(BIN)/python -m pytest -q tests/architecture

fmt: venv ## Bring the code into its format
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

bench: venv ## Measure a platform of its own beside its peers, in about 15 minutes (docs/benchmarks.md); BENCH=--quick
	@$(BIN)/python -m benchmarks $(BENCH)

simulate: venv ## Compare the scheduling policy with its peers' on a virtual clock (docs/simulator.md); SIMULATE=NAME
	@$(BIN)/tessera simulate --out build/simulate $(SIMULATE)

lock: venv ## Resolve the dependencies anew into requirements.lock
	@.venv-tools/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--python-version 3.11 --group dev pyproject.toml -o requirements.lock

clean: ## Remove .venv, its tools and all caches; never .tessera, which holds the data
	@rm -rf .venv .venv-tools .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.tessera/*' -prune -exec rm -rf {} +

venv:
	@.ci/make-venv
