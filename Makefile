# Two commands matter: `make demo` runs the main job on the embedded default, `make test` checks
# everything. Both set up .venv first when it is not there (BACKEND=cpu|gpu overrides the choice).

PYTHON_IN_VENV = .venv/bin/python
RECIPE ?= configs/rdpo/tinyworld.yaml
TESTS ?=
# Test processes; each has a Ray session and engines of its own, so files stay together.
TEST_PROCESSES ?= 2

# Libraries are installed uncompiled; what is imported must be kept compiled, or every process that
# Ray starts compiles it again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow test-gpu setup lock check-lock clean-venv help

help:
	@echo "make demo        set up, run the main job ($(RECIPE)), say where the report is"
	@echo "make test        set up, lint, types, tests (TESTS=tests/data to run some)"
	@echo "make test-slow   tests that take minutes"
	@echo "make test-gpu    tests that need a CUDA device"
	@echo "make setup       only the set-up; BACKEND=cpu|gpu overrides the choice"
	@echo "make lock        resolve requirements/*.txt again (needs the network)"
	@echo "make check-lock  check that the locks' pins satisfy each other and can be fetched"

setup:
	@sh requirements/setup.sh

demo: setup
	$(PYTHON_IN_VENV) jobs/run_recipe.py $(RECIPE)

test: setup
	$(PYTHON_IN_VENV) -m ruff check .
	$(PYTHON_IN_VENV) -m ruff format --check .
	$(PYTHON_IN_VENV) -m mypy
	$(PYTHON_IN_VENV) -m pytest -m "not slow and not gpu" -n $(TEST_PROCESSES) --dist loadfile $(TESTS)

test-slow: setup
	$(PYTHON_IN_VENV) -m pytest -m "slow and not gpu" --timeout 3600 $(TESTS)

test-gpu: setup
	$(PYTHON_IN_VENV) -m pytest -m gpu --timeout 3600 $(TESTS)

lock: setup
	$(PYTHON_IN_VENV) requirements/lock.py resolve cpu
	$(PYTHON_IN_VENV) requirements/lock.py resolve gpu

check-lock: setup
	$(PYTHON_IN_VENV) requirements/lock.py check cpu --fetch
	$(PYTHON_IN_VENV) requirements/lock.py check gpu --fetch

clean-venv:
	rm -rf .venv
