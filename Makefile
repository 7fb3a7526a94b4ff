# Every check has one definition, here; .ci/run and people call the same targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test check fmt bench bench-polling bench-delivery bench-isolation bench-freshness bench-endurance bench-memory prism tools check-deploy check-apiserver check-prometheus test-faults dashboards dashboards-pictures chart-readme stack lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(VENV)/.runtime: requirements.txt pyproject.toml relay/__init__.py
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the relay into $(VENV) ..."
	@$(BIN)/pip install -q --require-hashes -r requirements.txt
	@$(BIN)/pip install -q --no-deps -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.txt
	@$(BIN)/pip install -q --require-hashes -r requirements-dev.txt
	@touch $@

demo: $(VENV)/.runtime ## The main job in one terminal: make demo ARGS="--orders 5 --once"
	@$(BIN)/relay demo $(ARGS)

test: $(VENV)/.dev ## Run the whole test suite: make test ARGS="-k detect"
	@$(BIN)/python -m tests.run $(ARGS)

check: $(VENV)/.dev ## Format, lint, strict types, import contract
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@PYTHONPATH=. $(BIN)/lint-imports

fmt: $(VENV)/.dev ## Format and apply the safe lint fixes
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

check-deploy: tools ## Chart, rules, dashboards, image and compose file, against the real tools
	@$(BIN)/python -m pytest -q -n 2 tests/deploy $(ARGS)

check-apiserver: tools ## Install, upgrade and remove the chart's shapes against a real kube-apiserver (builds it: minutes)
	@$(BIN)/python -m deploy.apiserver $(ARGS)

check-prometheus: tools ## The cases of the rules and every query by promtool of Prometheus 3 (builds it: minutes)
	@cd deploy/tools/prometheus && go build -mod=readonly -o $(CURDIR)/.tools/bin/promtool3 github.com/prometheus/prometheus/cmd/promtool
	@TOOL_PROMTOOL=$(CURDIR)/.tools/bin/promtool3 $(BIN)/python -m pytest -q -n 2 tests/deploy -k "(rules or runbooks or dashboards or prometheus) and not shows_something" $(ARGS)

test-faults: tools ## Real processes and real Redis servers, killed, frozen, filled and failed over
	@$(BIN)/python -m pytest -q -n 2 --dist loadgroup tests/faults $(ARGS)

stack: tools ## Everything of compose without Docker, with orders and Prometheus: make stack ARGS="--seconds 60"
	@$(BIN)/python -m deploy.stack $(ARGS)

dashboards: $(VENV)/.dev ## Write the dashboards into the chart
	@$(BIN)/python -m deploy.dashboards

dashboards-pictures: tools ## Run the stack for three minutes and draw each dashboard into docs/images
	@$(BIN)/python -m deploy.pictures $(ARGS)

chart-readme: $(VENV)/.dev ## Write the chart's README and schema from its values.yaml
	@$(BIN)/python -m deploy.chart

tools: $(VENV)/.dev ## Fetch what check-deploy and the fault tests need besides: helm, promtool, Redis with TLS ...
	@$(BIN)/python -m tests.support.tools

prism: $(VENV)/.dev ## A minute against an upstream nobody here wrote (needs npm)
	@PRISM_SECONDS=60 $(BIN)/python -m pytest -q tests/e2e/test_prism.py

bench: bench-polling bench-delivery bench-isolation ## Measure polling and delivery beside a naive version and the bare engine

bench-polling: $(VENV)/.dev ## Unchanged polls a second of one worker process
	@$(BIN)/python -m bench.polling

bench-delivery: $(VENV)/.dev ## Deliveries a second of one worker process, and latency at 100 a second
	@$(BIN)/python -m bench.delivery

bench-freshness: $(VENV)/.dev ## How soon changes are noticed for a budget, into docs/: make bench-freshness TRACES=FILE
	@$(BIN)/python -m bench.freshness_report $(if $(TRACES),--traces $(TRACES))

bench-endurance: $(VENV)/.dev ## 10,000 orders on one worker for ten minutes, rebuilt from their events
	@$(BIN)/python -m bench.endurance

bench-memory: $(VENV)/.dev ## What a kept event and an idle subscription cost Redis
	@$(BIN)/python -m bench.memory

bench-isolation: $(VENV)/.dev ## What one hanging endpoint costs 99 healthy ones
	@$(BIN)/python -m bench.isolation

lock: $(VENV)/.dev ## Resolve the dependencies again, with hashes
	@$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 pyproject.toml -o requirements.txt
	@$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --extra tracing -c requirements.txt pyproject.toml -o requirements-image.txt
	@$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --group build -o requirements-build.txt
	@$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --extra tracing --group dev -c requirements.txt -o requirements-dev.txt pyproject.toml

clean: ## Remove the environment and caches
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* .import_linter_cache
