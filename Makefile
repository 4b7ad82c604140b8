# `make demo` and `make test` do all set-up by themselves, in their own virtual environment.
#   TORCH='torch==2.13.0'   which build of torch; pip resolves it together with everything else
#   PYTHON=python3.12       which Python makes the environment      VENV=.venv   where it lies
#   SEED=1                  another demo
#   QUICK=1                 a benchmark of four minutes      BENCH='--part cold --only ours,memmap'
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
TORCH ?= torch
SEED ?= 0
VENV ?= .venv

BIN := $(VENV)/bin
DONE := $(VENV)/.moot
CODE := loader triton_kernels trainer
WHEEL_VENV := build/wheel-venv
NATIVE := CMakeLists.txt $(shell find csrc -name '*.cpp' -o -name '*.h')
SOURCES := pyproject.toml $(NATIVE) $(shell find $(CODE) -name '*.py' -o -name '*.pyi' -o -name '*.j2')

# One process at a time sets up; whoever waited then finds nothing left to do.
LOCKED := mkdir -p build && flock build/.lock $(MAKE) --no-print-directory
# The whole of pip's output goes to a log, its milestones to the screen.
LOG := build/setup.log
PIP = mkdir -p build && $(BIN)/python -m pip --disable-pip-version-check install --no-build-isolation
WATCH = 2>&1 | tee $(LOG) | sed -unE 's/^ *(Downloading .* MB\)|Building wheels|Installing).*/      \1/p' \
  || { tail -n 30 $(LOG); echo "moot: set-up failed, see above or the whole log in $(LOG)" >&2; exit 1; }

define REQUIRE
import os, shutil, sys, sysconfig
found = "%d.%d" % sys.version_info[:2]
def stop(text):
    sys.exit("moot: " + text)
if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    stop("Python 3.10 to 3.13 is needed, %s is %s. Name another: make PYTHON=python3.12 ..." % (sys.executable, found))
try:
    import ensurepip, venv
except ImportError:
    stop("this Python cannot make virtual environments. On Debian or Ubuntu: apt install python%s-venv" % found)
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    stop("Python.h is missing, so nothing can be compiled against %s. On Debian or Ubuntu: apt install python%s-dev" % (sys.executable, found))
compilers = (os.environ.get("CXX") or "c++ g++ clang++").split()
if not any(shutil.which(name) for name in compilers):
    stop("no C++ compiler (looked for %s). On Debian or Ubuntu: apt install g++, or set CXX" % ", ".join(compilers))
endef
export REQUIRE

.PHONY: help demo test bench bench-gpu build lint types unit wheel-test stubs setup-demo setup-test setup-bench clean FORCE
.NOTPARALLEL:

help:
	@sed -n '1,6s/^# \{0,1\}//p' Makefile
	@echo 'Targets: demo, test (= lint types wheel-test unit), bench, bench-gpu, build, stubs, clean'

demo:
	+@$(LOCKED) setup-demo
	$(BIN)/moot demo --out runs/demo --seed $(SEED)

# The unit tests come last: their closing line is the last one printed.
test:
	+@$(LOCKED) setup-test
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory types
	@$(MAKE) --no-print-directory wheel-test
	@$(MAKE) --no-print-directory unit

bench:
	+@$(LOCKED) setup-bench
	$(BIN)/python benchmarks/bench_stream.py --torch '$(TORCH)' $(if $(QUICK),--quick) $(BENCH)

# Sets nothing up, so that it runs where there is no network: the package is installed already.
bench-gpu:
	$(firstword $(wildcard $(BIN)/python) $(PYTHON)) benchmarks/bench_gpu.py $(if $(QUICK),--quick) $(BENCH)

build:
	+@$(LOCKED) $(DONE)/native

# ---- set-up, in three steps that each leave a mark in $(DONE)

setup-demo: $(DONE)/demo $(DONE)/native
setup-test: $(DONE)/test $(DONE)/native
setup-bench: $(DONE)/bench $(DONE)/native

$(DONE)/venv:
	@$(PYTHON) -c "$$REQUIRE"
	@echo "[1/3] virtual environment in $(VENV) ($$($(PYTHON) --version))"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade pip scikit-build-core 'nanobind~=3.1.0' cmake ninja $(WATCH)
	@mkdir -p $(DONE) && touch $@

# Torch, our requirements and the extras are resolved by ONE command: so a pin of torch holds
# against torchvision (wanted by mosaicml-streaming), which else brings in the newest build.
$(DONE)/demo: EXTRAS := train,report,label
$(DONE)/test: EXTRAS := train,report,label,mosaic,test
$(DONE)/bench: EXTRAS := train,report,label,bench
$(DONE)/demo $(DONE)/test $(DONE)/bench: pyproject.toml $(DONE)/torch | $(DONE)/venv
	@echo "[2/3] packages: $(TORCH), moot[$(EXTRAS)] (some minutes the first time)"
	@$(PIP) '$(TORCH)' -e '.[$(EXTRAS)]' $(WATCH)
	@touch $@ $(DONE)/demo $(DONE)/native

$(DONE)/native: $(NATIVE) | $(DONE)/venv
	@echo "[3/3] native code"
	@$(PIP) --no-deps -e . $(WATCH)
	@touch $@

# Changes only when the wish for torch changes.
$(DONE)/torch: FORCE | $(DONE)/venv
	@echo '$(TORCH)' | cmp -s - $@ || echo '$(TORCH)' > $@

# ---- the parts of `make test`

lint:
	$(BIN)/ruff check $(CODE) tests examples benchmarks

# Type checkers do not see an editable install: .types/moot shows them the namespace.
types:
	@mkdir -p .types && ln -sfn .. .types/moot
	MYPYPATH=.types $(BIN)/mypy -p moot.loader -p moot.triton_kernels -p moot.trainer

unit:
	$(BIN)/pytest

# The wheel, in an environment of its own: it borrows the packages of $(VENV) through a .pth file,
# but not the editable install, because .pth files of a borrowed folder are not read. From build/,
# so that nothing of the repository is on the path: corpus, fit and the README's example.
wheel-test: $(WHEEL_VENV)/.done
	$(WHEEL_VENV)/bin/python -m pytest tests/packaging
	cd build && wheel-venv/bin/moot corpus local --out smoke --size 2MB --force
	cd build && wheel-venv/bin/moot fit smoke --force
	cd build && wheel-venv/bin/python ../examples/plain_loop.py smoke

$(WHEEL_VENV)/.done: $(SOURCES)
	@echo "[wheel] build, install into $(WHEEL_VENV)"
	@rm -rf build/dist $(WHEEL_VENV)
	@flock build/.lock $(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w build/dist .
	@$(BIN)/python -m venv --without-pip $(WHEEL_VENV)
	@site() { "$$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }; \
	  site $(VENV) > "$$(site $(WHEEL_VENV))/borrowed.pth"
	@$(BIN)/python -m pip --python $(WHEEL_VENV)/bin/python install -q --no-deps --force-reinstall build/dist/*.whl
	@touch $@

stubs:
	$(BIN)/python -m nanobind.stubgen -q -m moot.loader._core -o loader/_core.pyi
	$(BIN)/python -m nanobind.stubgen -q -m moot.triton_kernels._native -o triton_kernels/_native.pyi

clean:
	rm -rf build .types
