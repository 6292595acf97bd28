# Everything a fresh Debian machine with Rust and Python 3.11 needs is set up by these targets.
#   make demo   build, start the demo app and print its address
#   make test   every test: the core without Python, the package, a real browser, real servers
#   make explore  the storms of the core, with more and other cases than in every test run
#   make fuzz   each fuzz target for FUZZ_SECONDS (60): needs a C++ compiler, on any stable Rust
#   make sanitize  the tests of the core under ThreadSanitizer, on any stable Rust; fetches the source of Rust's library
#   make test-crowds  what takes thousands of connections, in full: 19,000 at once, 100,000 that come and go;
#                     and limits of time as they are promised: for a machine with nothing else to do
#   make test-storms  the storms over brokers in full: 50 runs with 200 watchers, workers killed 8 times, over each
#                     broker; over files, 500 writers killed, 300 clients of four workers, and 1,000,000 entries
#   make test-firefox  what a browser makes of the streams, with Debian's Firefox instead of Chromium
#   make test-uvicorns  that streams leave every uvicorn from 0.34 on, the newest of each minor version
#   make test-pythons  the package from a wheel on every supported Python, with the newest and the oldest packages;
#                      Pythons that are missing are got on Debian; PYTHONS="3.12 3.14t" for some
#   make test-wheel  the package from a wheel in dist/, on the Python named by PYTHON=
#   make wheels  the wheels that Linux can build, into dist/; PYTHONS= as above, LIBRARIES="glibc musl"
#   make test-windows WINDOWS_PYTHON=…  the extension built for Windows, and what of the tests can run there, under
#                     Wine; needs rustup, and the directory of python.org's "Windows embeddable package" of 3.11
#   make bench  side by side with what a user would pick instead, about 50 minutes; bench-quick: about three
#   make lint   formatters, linters, types, the stub
#   make lint-elsewhere  what the extension compiles only on ARM64, macOS and Windows; needs rustup
#   make reference  docs/reference.md, rendered from the docstrings
#   make docs   the documentation as a site with search, in target/site
SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python
PYTHON ?= python3
# Debian packages that tests use for real; `make test` installs them when it runs as root.
DEBS := chromium nginx-light redis-server openssl fonts-dejavu-core prometheus

# Crates of the benchmark: not members of the package's, built only where it runs.
BENCH_CRATES := bench/loadgen bench/peers/axum bench/peers/bare
# Property tests are the same in every run, so that one that fails does so for everybody; not in `make explore`.
SEED ?= 20261121
# The newest release of each minor version of uvicorn that streams are handed off from.
UVICORNS := 0.34.3 0.35.0 0.36.1 0.37.0 0.38.0 0.39.0 0.40.0 0.41.0 0.42.0 0.43.0 0.44.0 0.45.0 0.46.0 0.47.0 \
	0.48.0 0.49.0 0.50.2 0.51.0 0.52.4 0.53.0 0.54.0

.PHONY: help demo bench bench-quick test test-core test-python test-crowds test-storms test-firefox test-uvicorns test-pythons test-wheel test-windows wheels explore fuzz sanitize lint lint-elsewhere lint-rust lint-python lint-bench build setup venv system clean format reference docs

help:
	@sed -n '/^#/!q; 1!s/^# *//p' Makefile

$(VENV)/.ready: pyproject.toml tools/dev-requirements.py
	@command -v cargo >/dev/null || { echo "missing: Rust (https://rustup.rs), 1.88 or newer"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "missing: Python 3.11 or newer (set PYTHON=)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --upgrade pip
	$(PY) tools/dev-requirements.py > $(VENV)/dev-requirements.txt
	$(PY) -m pip install -q --no-compile -r $(VENV)/dev-requirements.txt
	@touch $@

$(VENV)/.bench-ready: $(VENV)/.ready
	$(PY) tools/dev-requirements.py bench > $(VENV)/bench-requirements.txt
	$(PY) -m pip install -q --no-compile -r $(VENV)/bench-requirements.txt
	@touch $@

$(VENV)/.packages-ready: $(VENV)/.ready
	$(PYTHON) -m venv $(VENV)/packages
	$(PY) tools/dev-requirements.py packages > $(VENV)/packages-requirements.txt
	$(VENV)/packages/bin/python -m pip install -q --no-compile -r $(VENV)/packages-requirements.txt
	@touch $@

# Clients for Node that tests read runs with: as the lock file says, beside the environment of Python.
$(VENV)/.node-ready: tests/clients/package.json tests/clients/package-lock.json | $(VENV)/.ready
	@command -v npm >/dev/null || { echo "missing: Node 20 or newer, with npm"; exit 1; }
	@mkdir -p $(VENV)/node && cp tests/clients/package.json tests/clients/package-lock.json $(VENV)/node
	cd $(VENV)/node && npm ci --silent --no-audit --no-fund
	@touch $@

venv: $(VENV)/.ready

# The extension, in place. For tests and the demo it is optimised as a wheel is, but for what only the whole-program
# link of a wheel can see, which takes minutes; what is measured is built as a wheel is.
PROFILE := checkout
bench bench-quick: PROFILE := release
build: venv
	@test -d target || echo "Compiling the Rust part: two or three minutes, the first time"
	@VIRTUAL_ENV=$(abspath $(VENV)) PIP_QUIET=1 $(VENV)/bin/maturin develop --profile $(PROFILE) -q

system:
	@sh tools/system-packages.sh $(DEBS)

setup: build system

demo: build
	$(PY) -m examples.demo

# In parts: python -m bench.suite --list, --only fanout,growth, --resume.
bench: build $(VENV)/.bench-ready
	$(PY) -m bench.suite

bench-quick: build $(VENV)/.bench-ready
	$(PY) -m bench.suite --quick

test: setup test-core test-python

test-core: export PROPTEST_RNG_SEED := $(SEED)
test-core:
	cargo test --no-default-features -q
	cargo test --no-default-features -q --features shuttle --test model
	cd bench/loadgen && CARGO_TARGET_DIR=target cargo test --locked -q

explore:
	SSE_HUB_EXPLORE=20 cargo test --no-default-features -q --test hub storm
	SSE_HUB_EXPLORE=20 cargo test --no-default-features -q --test file much_damage

FUZZ_SECONDS ?= 60
fuzz:
	@sh tools/fuzz.sh $(FUZZ_SECONDS)

sanitize: export PROPTEST_RNG_SEED := $(SEED)
sanitize:
	@sh tools/sanitize.sh

# Tests wait for servers more than they compute. A file stays in one process, for the fixtures of its module; files
# keep their order, because those with few tests, which xdist would run last, take longest.
WORKERS ?= 2
test-python: setup $(VENV)/.packages-ready $(VENV)/.node-ready
	$(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-crowds: build
	SSE_HUB_CROWDS=full $(PY) -m pytest -s $$(grep -rl --include='test_*.py' 'promised(' tests)

test-storms: setup
	STORM_RUNS=50 STORM_WATCHERS=200 STORM_KILLS=8 $(PY) -m pytest -s tests/brokers/test_storm_runs_workers.py
	STORM_KILLS=500 $(PY) -m pytest -s tests/brokers/test_storm_file.py
	STORM_CLIENTS=300 STORM_KILLS=40 $(PY) -m pytest -s tests/brokers/test_storm_workers.py
	SSE_HUB_ENTRIES=1000000 $(PY) -m pytest -s tests/brokers/test_file_many.py

test-firefox: build
	@sh tools/system-packages.sh firefox-esr
	SSE_HUB_BROWSER=firefox $(PY) -m pytest tests/browser/test_browser_streams.py

target/uvicorns/%: | venv
	$(PY) -m pip install -q --no-deps --target $@ uvicorn==$*

test-uvicorns: build $(UVICORNS:%=target/uvicorns/%)
	SSE_HUB_UVICORNS="$(UVICORNS)" $(PY) -m pytest tests/handoff/test_uvicorns.py

PYTHONS ?=
test-pythons: venv
	@sh tools/system-packages.sh nginx-light redis-server openssl patchelf
	$(PY) tools/test_pythons.py $(PYTHONS)

TESTS ?=
test-wheel:
	@! command -v dpkg-query >/dev/null || sh tools/system-packages.sh nginx-light redis-server openssl
	$(PYTHON) tools/test_pythons.py --here --with newest --wheels dist $(if $(TESTS),-- $(TESTS))

$(VENV)/.wheels-ready: $(VENV)/.ready
	$(PYTHON) -m venv $(VENV)/wheels
	$(PY) tools/dev-requirements.py wheels > $(VENV)/wheels-requirements.txt
	$(VENV)/wheels/bin/python -m pip install -q -r $(VENV)/wheels-requirements.txt
	@touch $@

LIBRARIES ?= glibc musl
wheels: $(VENV)/.wheels-ready
	@sh tools/system-packages.sh advancecomp
	PATH="$(abspath $(VENV))/wheels/bin:$$PATH" $(VENV)/wheels/bin/python tools/wheels.py $(PYTHONS) $(LIBRARIES:%=--for %)

test-windows: venv
	@sh tools/system-packages.sh gcc-mingw-w64-x86-64 wine wine64 unzip
	@sh tools/test-windows.sh $(VENV) "$(WINDOWS_PYTHON)"

# Compilers leave one core idle every now and then: Python's linters have it.
lint: venv $(VENV)/.bench-ready $(VENV)/.node-ready
	$(MAKE) --no-print-directory -j 2 --output-sync=target lint-rust lint-python
	$(PY) -m mypy.stubtest sse_hub._core

lint-rust: build lint-bench
	cargo fmt --check
	cargo clippy -q --lib -- -D warnings
	cargo clippy -q --no-default-features --all-targets -- -D warnings
	cargo clippy -q --no-default-features --features shuttle --test model -- -D warnings

lint-python: venv $(VENV)/.bench-ready $(VENV)/.node-ready
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(PY) tools/snippets.py
	$(VENV)/bin/mypy --config-file tools/snippets.ini target/snippets
	$(VENV)/node/node_modules/.bin/pyright --project pyproject.toml

# What is compiled elsewhere only: polling, refusals, other types of C. Not part of `make lint`: rustup fetches three
# libraries, of 130 MB each.
lint-elsewhere: $(VENV)/.wheels-ready
	sh tools/lint-elsewhere.sh $(VENV)/wheels/lib/python*/site-packages/ziglang/zig

# Go is not needed to work on the package: its peer is looked at where Go is installed.
lint-bench:
	for crate in $(BENCH_CRATES); do (cd $$crate && cargo fmt --check && \
		CARGO_TARGET_DIR=target cargo clippy -q --locked --all-targets -- -D warnings) || exit 1; done
	! command -v go >/dev/null || { test -z "$$(gofmt -l bench/peers/go)" && \
		cd bench/peers/go && GOPROXY=off GOTOOLCHAIN=local go vet ./...; }

reference: venv
	$(PY) tools/reference.py

$(VENV)/.docs-ready: pyproject.toml tools/dev-requirements.py
	$(PYTHON) -m venv $(VENV)/docs
	$(VENV)/docs/bin/python tools/dev-requirements.py docs > $(VENV)/docs/requirements.txt
	$(VENV)/docs/bin/python -m pip install -q -r $(VENV)/docs/requirements.txt
	@touch $@

# mkdocs-material announces its successor at every start, which would hide its warnings.
docs: $(VENV)/.docs-ready
	NO_MKDOCS_2_WARNING=1 $(VENV)/docs/bin/mkdocs build -q --strict
	@echo "target/site/index.html; with its search: python3 -m http.server -d target/site"

format:
	cargo fmt
	for crate in $(BENCH_CRATES); do (cd $$crate && cargo fmt); done
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:
	rm -rf target $(VENV) python/sse_hub/*.so
