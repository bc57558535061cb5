# aioxide's one door: every verb a developer, a user trying it out or the CI needs.
# `make` alone lists them. Needs Rust (cargo), Python 3.11 or later with venv, and a C compiler;
# the rest is installed into .venv from the package registries, once.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
BENCH_ARGS ?=
FUZZ_SECONDS ?= 20
SOAK_SECONDS ?= 900
SOAK_ARGS ?=
# The releases that the claims of tests/asked are about; they change together.
PEERS_ASKED := uvloop==0.23.0 rloop==0.5.0 rsloop==0.1.66 zuvloop==0.0.17
# What the benchmark compares with.
PEERS ?= $(PEERS_ASKED) aiofastnet==1.2.0

PY := $(VENV)/bin/python
STAMPS := $(VENV)/.stamps
RUST_SOURCES := $(shell find crates Cargo.toml Cargo.lock -name '*.rs' -o -name 'Cargo.*' 2>/dev/null)
PY_SOURCES := $(shell find python -name '*.py' -o -name '*.pyi' -o -name py.typed 2>/dev/null)
PIP := $(PY) -m pip --disable-pip-version-check install --quiet

# The bindings are compiled against the Python of the environment at hand, whatever else is on PATH.
export PYO3_PYTHON = $(abspath $(PY))
export VIRTUAL_ENV = $(abspath $(VENV))
unexport PYTHONPATH
unexport PYTHONHOME

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

.PHONY: help
help: ## Lists these verbs
	@echo "usage: make VERB   (variables: PYTHON=$(PYTHON) VENV=$(VENV) PYTEST_ARGS BENCH_ARGS FUZZ_SECONDS SOAK_SECONDS)"
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)$$/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) \
	  | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'

# --- environment: each step leaves a stamp and is not repeated ---------------------------------

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "aioxide needs Python 3.11 or later; say make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade 'pip>=25.1'
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/test: pyproject.toml $(STAMPS)/venv
	$(PIP) --group test
	@touch $@

$(STAMPS)/lint: pyproject.toml $(STAMPS)/test
	$(PIP) --group lint
	@touch $@

# uvloop's own tests are only in its source distribution.
$(STAMPS)/uvloop: pyproject.toml $(STAMPS)/venv
	$(PY) -m pip --disable-pip-version-check download --quiet --no-deps --no-binary uvloop \
	  --dest $(VENV)/uvloop-suite 'uvloop>=0.23,<0.24'
	@touch $@

# Peers are measured where they exist: not every one has a wheel for every Python.
$(STAMPS)/bench: Makefile $(STAMPS)/test
	@$(PIP) --only-binary :all: --group bench 2>/dev/null \
	  || echo "bench: no matplotlib for this Python, so no picture"
	@for peer in $(PEERS); do \
	  $(PIP) --only-binary :all: $$peer 2>/dev/null || echo "bench: no $$peer for this Python"; done
	@touch $@

# Each in a folder of its own beside the environment, so that no server finds one by accident.
$(STAMPS)/peers: Makefile $(STAMPS)/test
	@rm -rf $(VENV)/peers
	@for peer in $(PEERS_ASKED); do \
	  $(PIP) --only-binary :all: --no-deps --target $(VENV)/peers/$${peer%%=*} $$peer 2>/dev/null \
	    || { rm -rf $(VENV)/peers/$${peer%%=*}; echo "test: no $$peer for this Python"; }; done
	@touch $@

# The package as a user gets it: built by `pip install .` in release mode, not linked to this tree,
# and with a profile where that can be: MATURIN_PGO=0 takes half the time and builds without.
$(STAMPS)/installed: $(RUST_SOURCES) $(PY_SOURCES) pyproject.toml README.md $(wildcard tools/train*.py) $(STAMPS)/test
	MATURIN_PGO="$${MATURIN_PGO-$$(tools/profile)}" PATH="$(abspath $(VENV))/bin:$$PATH" $(PIP) --no-build-isolation --no-deps --force-reinstall .
	@$(PY) -P -c 'import aioxide'
	@touch $@

.PHONY: dev
dev: $(STAMPS)/test ## Builds in debug mode and links this tree into the environment, for quick edits
	$(PY) -m maturin develop
	@rm -f $(STAMPS)/installed

.PHONY: build
build: $(STAMPS)/installed ## Sets up the environment and installs a release build into it

# --- trying it ---------------------------------------------------------------------------------

# On a terminal the server gets a foreground process group of its own (`set -m`): Ctrl-C then stops
# the server, which ends with status 0, and not also make, which would report an interrupt.
.PHONY: demo
demo: build ## Serves examples/shop on aioxide until Ctrl-C
	@if [ -t 0 ]; then set -m; fi; $(PY) examples/shop/serve.py

# --- tests -------------------------------------------------------------------------------------

.PHONY: test
test: test-rust test-python ## Runs every test, Rust and Python, on one Python

.PHONY: test-rust
test-rust: $(STAMPS)/venv ## Runs the Rust tests
	cargo test --package aioxide-core

.PHONY: servers
servers: ## Installs the servers that tests/apps starts, where this machine lets us
	@tools/servers

.PHONY: test-python
test-python: build servers $(STAMPS)/peers $(STAMPS)/uvloop ## Runs the Python tests (PYTEST_ARGS="-k name" picks some)
	$(PY) -P -m pytest $(PYTEST_ARGS)

.PHONY: test-all
test-all: test-rust ## Runs the Python tests on every Python 3.11 to 3.15 found (AIOXIDE_PYTHONS adds some)
	@pythons=$$($(PYTHON) tools/pythons.py) || exit 1; \
	echo "$$pythons" | { failed=; while read -r version python; do \
	  echo "== Python $$version ($$python)"; \
	  $(MAKE) --no-print-directory test-python PYTHON="$$python" VENV=".venvs/$$version" \
	    CARGO_TARGET_DIR="$(or $(CARGO_TARGET_DIR),target)/py$$version" </dev/null \
	    || failed="$$failed $$version"; \
	done; [ -z "$$failed" ] || { echo "failed on Python$$failed"; exit 1; }; }

.PHONY: figures
figures: build $(STAMPS)/uvloop ## Prints how CPython's and uvloop's own tests fare, module by module
	PYTHONPATH=tests $(PY) -P -m cpython.report
	PYTHONPATH=tests $(PY) -P -m uvloop_suite.figures

.PHONY: soak
soak: build ## Serves mixed load with injected faults for SOAK_SECONDS; anything lost or left over fails
	PYTHONPATH=tests $(PY) -P -m soak --seconds $(SOAK_SECONDS) $(SOAK_ARGS)

.PHONY: loom
loom: ## Explores the interleavings of what threads share
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR="$(or $(CARGO_TARGET_DIR),target)/loom" \
	  CARGO_PROFILE_RELEASE_LTO=off cargo test --package aioxide-core --release --lib -- inbox:: doze::

.PHONY: miri
miri: ## Runs the core's tests under miri, where a nightly toolchain has it
	@if cargo +nightly miri --version >/dev/null 2>&1; then \
	  MIRIFLAGS="-Zmiri-disable-isolation" CARGO_TARGET_DIR="$(or $(CARGO_TARGET_DIR),target)/miri" \
	    cargo +nightly miri test --package aioxide-core --lib; \
	else echo "miri: not run, because no nightly toolchain with miri is installed" \
	  "(rustup toolchain install nightly --component miri)"; fi

.PHONY: fuzz
fuzz: build ## Runs each fuzz target, and storms over TLS, for FUZZ_SECONDS
	cd fuzz && ./run $(FUZZ_SECONDS)
	$(PY) -P fuzz/tls_stream.py $(FUZZ_SECONDS)

# --- quality -----------------------------------------------------------------------------------

.PHONY: lint
lint: lint-rust lint-python ## Checks format, lints and types of everything

.PHONY: lint-rust
lint-rust: $(STAMPS)/venv
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings -D unsafe_op_in_unsafe_fn \
	  -D clippy::undocumented_unsafe_blocks -D clippy::missing_safety_doc -D clippy::too_many_lines

.PHONY: lint-python
lint-python: build $(STAMPS)/lint
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m mypy --python-version 3.14
	$(PY) -P -m mypy.stubtest aioxide --mypy-config-file pyproject.toml \
	  --allowlist tests/typing/stubtest-allow.txt

.PHONY: format
format: $(STAMPS)/lint ## Formats everything
	cargo fmt --all
	$(PY) -m ruff check --fix-only --quiet .
	$(PY) -m ruff format .

.PHONY: docs
docs: ## Builds the core's API documentation; a broken link is an error
	RUSTDOCFLAGS="-D warnings" cargo doc --package aioxide-core --no-deps --document-private-items

# In an environment of its own: servers take uvloop unasked where they find it.
.PHONY: bench
bench: ## Measures every loop that this Python can install, in ten minutes: report, JSON, picture
	@$(MAKE) --no-print-directory run-bench VENV=.venvs/bench-$$($(PYTHON) -c \
	  'import sys; print("%d.%d" % sys.version_info[:2])')

.PHONY: bench-full
bench-full: ## The same with every case, size and number of connections, in 45 minutes
	@$(MAKE) --no-print-directory bench BENCH_ARGS="--full $(BENCH_ARGS)"

.PHONY: run-bench
run-bench: build servers $(STAMPS)/bench
	$(PY) -P benches/run.py $(BENCH_ARGS)

.PHONY: all
all: lint test loom miri fuzz docs ## Everything but test-all and bench

.PHONY: clean
clean: ## Removes the environments and build products
	rm -rf $(VENV) .venvs target fuzz/target
