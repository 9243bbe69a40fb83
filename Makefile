# Everything stays inside this folder: interpreter tools in .uv, packages in .venv, results in .uio2.
# Needs Python 3.11+ (with Python 3.12 findable), make and git; nothing else.

export UV_CACHE_DIR ?= $(CURDIR)/.uv/cache
export UV_PYTHON_INSTALL_DIR ?= $(CURDIR)/.uv/python
export UV_LINK_MODE ?= hardlink
# The compiled-program cache, temporary Matplotlib files and the like belong to the repository as well.
export XDG_CACHE_HOME ?= $(CURDIR)/.uv/home
export MPLCONFIGDIR ?= $(CURDIR)/.uv/home/matplotlib
export TFDS_DATA_DIR ?= $(CURDIR)/.uv/home/tensorflow_datasets

PYTHON ?= python3
UV := .uv/bin/uv
RUN := .venv/bin
UV_VERSION := 0.13.9
# A file's tests share a worker, and so fixtures and compiled programs; files in the order of tests/conftest.py. Three
# workers on two cores: many tests wait for servers and processes.
PYTEST := $(RUN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=20

# Compilers of TPUs and GPUs for `uio2 plan-hardware`, in folders that only its compiling process sees: in .venv they
# would make every process look for those devices. Their versions are those of jax in requirements.lock.
HARDWARE ?= tpu cuda

.PHONY: hardware help setup demo test check slow lock goldens up down clean

help:
	@echo "make demo     set up and run the main job on the embedded digits"
	@echo "make test     set up, check and run the whole test suite"
	@echo "make check    lint, format, types, layers"
	@echo "make slow     the slow tests alone"
	@echo "make long     what does not fit into make test: kill -9 over the whole flow, every task on real data, ..."
	@echo "make up/down  the local Prefect and MLflow pages"
	@echo "make hardware compilers of TPUs and GPUs for uio2 plan-hardware, 400 MB (HARDWARE=tpu: 200)"
	@echo "make goldens  write the golden texts again"
	@echo "make lock     resolve requirements.lock again"
	@echo "make clean    remove .venv and .uv (results in .uio2 stay)"

setup: .venv/.ready

$(UV):
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# The stamp is written last, so that a stopped set-up is done again. Bytecode is written now: a pipeline starts many
# processes, and where Python may not write it (PYTHONDONTWRITEBYTECODE, read-only places) each compiled for seconds.
.venv/.ready: requirements.lock pyproject.toml .python-version | $(UV)
	test -x .venv/bin/python || $(UV) venv --quiet --python "$$(cat .python-version)" .venv
	$(UV) pip sync --quiet --compile-bytecode --python .venv/bin/python --require-hashes requirements.lock
	$(UV) pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	@touch .venv/.ready

demo: setup
	$(RUN)/uio2 run digits

hardware: setup
	for name in $(HARDWARE); do rm -rf .uv/hardware/$$name; $(UV) pip install --quiet --python .venv/bin/python \
		--target .uv/hardware/$$name --no-deps --require-hashes -r requirements.$$name.lock || exit 1; done

check: setup
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/lint-imports
	$(RUN)/mypy

test: check
	$(PYTEST) -m "not slow and not long"
	$(PYTEST) -m "slow and not long"

slow: setup
	$(PYTEST) -m "slow and not long"

long: setup
	$(PYTEST) -m long

lock: $(UV)
	$(UV) pip compile pyproject.toml --quiet --extra pipeline --extra cloud --extra dev --python-version 3.12 --universal \
		--generate-hashes --no-annotate --no-header --no-emit-index-url --output-file requirements.lock

goldens: setup
	$(RUN)/python -m tests.goldens.regenerate

up: setup
	$(RUN)/uio2 up

down: setup
	$(RUN)/uio2 down

clean:
	rm -rf .venv .uv
