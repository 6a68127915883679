# make demo   search the digits example and show the best model
# make test   run the tests; make test-all adds the slow ones
# make check  lint, format and types
# make clean  remove the environment and the demo's search
#
# Each makes the environment first, once. On Linux, pip's torch brings CUDA with it; for the
# smaller CPU build: make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
DEMO := runs/digits
PIP_FLAGS ?=
PYTEST_ARGS ?=

# The first Python that is new enough, under any of its usual names.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && \
	echo $$p && break; done)

# The scripts of an environment hold its path: one that was moved or copied is installed again.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

.PHONY: demo test test-all check env clean

demo: $(STAMP)
	@$(VENV)/bin/retiarii run examples/digits/space.py --out $(DEMO) \
		--strategy evolution --trials 24 --seed 0

test: $(STAMP)
	@$(PY) -m pytest $(PYTEST_ARGS)

test-all: $(STAMP)
	@$(PY) -m pytest -m "" $(PYTEST_ARGS)

check: $(STAMP)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then \
		echo "error: Python 3.11 or newer is needed, and none was found" >&2; \
		echo "  fix: install it, or say where it is: make PYTHON=/path/to/python3.11" >&2; \
		exit 2; fi
	@echo "making $(VENV) with $(PYTHON); torch is large, this takes a few minutes"
	@$(PYTHON) -m venv $(VENV) || { \
		echo "error: $(PYTHON) cannot make a virtual environment" >&2; \
		echo "  fix: on Debian and Ubuntu, apt install python3-venv" >&2; exit 2; }
	@$(PY) -m pip install --disable-pip-version-check $(PIP_FLAGS) \
		-c constraints.txt -e '.[dev,examples]'
	@echo "$(CURDIR)" > $(STAMP)

clean:
	rm -rf $(VENV) $(DEMO)
