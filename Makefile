# `make help` lists the targets. Everything is installed from the lock files in requirements/.
PYTHON ?= python3
# How many processes run tests; a failure is easier to follow with WORKERS=0.
WORKERS ?= auto
# What `make matrix` runs, as in SESSIONS="floor newest"; `.venv/bin/nox --list` names all.
SESSIONS ?=
# How many mutated answers `make soak` reads.
EXAMPLES ?= 100000
# SDKs between the oldest, which `make matrix` tests, and that of the lock.
SDKS := 1.27.5

BIN := .venv/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
PYTEST := python -m pytest --numprocesses $(WORKERS) --dist worksteal
LOCKED := --constraint requirements/dev.lock --build-constraint requirements/dev.lock
DEMO := --constraint requirements/dev.lock --editable ".[langchain,llamaindex,emulator,cli]"
# These take long, or run the same on every path; few changes concern them alone.
FAST_TESTS := $(filter-out $(addprefix %/test_,tracers.py trees.py recordings.py answers.py error_answers.py \
	secrets.py sent_and_refused.py sessions.py images.py keys.py tls.py closing.py faults.py retriever.py chat_engine.py),$(wildcard \
	tests/core/test_*.py tests/transport/test_*.py tests/langchain/test_*.py tests/llamaindex/test_*.py tests/test_*.py))

.PHONY: help demo install test test-fast test-slow test-sdks soak matrix coverage \
	bench docs docs-serve check format messages licences package lock lock-upgrade clean

help: ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(if $(wildcard .venv/.installed),.venv,.venv-demo)/.installed ## Use one app in three ways; no key is needed.
	@$(<D)/bin/bailian-apps demo

install: .venv/.installed ## Make .venv, with all that developers need.

test: .venv/.installed ## Run every test that is not slow; with COVERAGE=1 also count branches.
	$(BIN)/$(PYTEST) -m "not slow" $(if $(COVERAGE),--cov --cov-report=)
	$(if $(COVERAGE),$(BIN)/coverage report)

test-fast: .venv/.installed ## Run what is done in a minute: for each save.
	$(BIN)/$(PYTEST) -m "not slow and not process" $(FAST_TESTS)

test-slow: test-sdks soak ## Run what is long by nature.

test-sdks: $(SDKS:%=.venv/sdks/%/.installed) ## Run the tests of the transport on other versions of the SDK.
	@for sdk in $(SDKS); do echo "dashscope $$sdk"; \
		PYTHONPATH=.venv/sdks/$$sdk $(BIN)/$(PYTEST) -m "not slow" -o filterwarnings=default tests/core tests/transport || exit; done

soak: .venv/.installed ## Run the slow tests, and EXAMPLES mutations of recordings.
	$(BIN)/$(PYTEST) -m slow
	BAILIAN_EXAMPLES=$(EXAMPLES) $(BIN)/$(PYTEST) --timeout 7200 tests/transport/test_mutations.py

matrix: .venv/.installed ## Run the tests on each Python, and on the oldest and newest dependencies.
	WORKERS=$(WORKERS) $(BIN)/nox $(if $(SESSIONS),--session $(SESSIONS))

coverage: ## Run `make test`, and list the branches that no test takes.
	$(MAKE) test COVERAGE=1

bench: .venv/.installed ## Measure speed, and write benchmarks.md in both languages.
	@$(BIN)/python benchmarks/run.py --write docs/en/benchmarks.md --write docs/zh/benchmarks.md
	@for each in benchmarks/emulator.py benchmarks/recorder.py benchmarks/inspector.py; do $(BIN)/python $$each; done

docs: .venv/.installed ## Build the documentation site in site/, in both languages.
	$(BIN)/python docs/build_site.py site

docs-serve: docs ## Show the site at http://127.0.0.1:8000.
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory site

check: .venv/.installed ## Check format, lint, types and import contracts.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/pyright --pythonversion 3.10 $(filter-out %/langchain %/__pycache__ %/py.typed,$(wildcard integrations/bailian_apps/*))
	$(BIN)/lint-imports

messages: .venv/.installed ## Collect the texts that people read; compile their translations.
	$(BIN)/python docs/messages.py

licences: .venv/.installed ## List the licences of all dependencies, in licences.md of both languages.
	$(BIN)/python docs/licences.py

package: .venv/.installed ## Build what is published in dist/, and try it in empty environments.
	$(BIN)/nox -s build wheel sdist readme audit

format: .venv/.installed ## Format the source, and repair what ruff can.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Versions that are locked already stay, unless UPGRADE=--upgrade.
lock: .venv-lock/bin/uv ## Write the lock files anew, after a change to pyproject.toml.
	$< pip compile --quiet --universal --python-version 3.10 --custom-compile-command "make lock" $(UPGRADE) \
		--all-extras --group dev --group stores --group docs --group release --group build --output-file requirements/dev.lock pyproject.toml
	$< pip compile --quiet --universal --python-version 3.10 --custom-compile-command "make lock" $(UPGRADE) \
		--resolution lowest-direct --all-extras --group test --group floor --group build --output-file requirements/floor.lock pyproject.toml

lock-upgrade: ## Raise every locked version, show which, and run everything on them.
	$(MAKE) lock UPGRADE=--upgrade
	git --no-pager diff --unified=0 -- requirements
	$(MAKE) --keep-going check test test-slow matrix SESSIONS=floor EXAMPLES=1000

clean: ## Remove everything that was installed or built.
	rm -rf dist site .doctrees .nox .venv .venv-demo .venv-lock

.venv/.installed: pyproject.toml requirements/dev.lock
	@echo "== installing into .venv"
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP_INSTALL) --constraint requirements/dev.lock --upgrade pip
	$(BIN)/python $(PIP_INSTALL) $(LOCKED) --editable ".[all,ray]" --group dev --group stores --group docs --group release --group build
	@touch $@

# uv installs in seconds what takes pip a minute. It does not read pip's configuration; where it fails, pip installs.
.venv-demo/.installed: pyproject.toml requirements/dev.lock
	@echo "== installing into .venv-demo"
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python $(PIP_INSTALL) --no-compile uv
	index=$${PIP_INDEX_URL:-$$(.venv-demo/bin/python -m pip config get global.index-url 2>/dev/null)}; \
		.venv-demo/bin/uv pip install --quiet $${index:+--default-index "$$index"} --python .venv-demo/bin/python $(DEMO) || \
		.venv-demo/bin/python $(PIP_INSTALL) --no-compile $(DEMO)
	.venv-demo/bin/uv pip uninstall --quiet --python .venv-demo/bin/python pip uv
	@touch $@

# What an SDK depends on is in .venv already.
.venv/sdks/%/.installed: .venv/.installed
	$(BIN)/python $(PIP_INSTALL) --no-deps --upgrade --target $(@D) dashscope==$*
	@touch $@

.venv-lock/bin/uv:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python $(PIP_INSTALL) uv
