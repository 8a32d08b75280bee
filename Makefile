# make demo and make test set up everything on a machine that has Python 3.11 or newer.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo test bench check lint types tests wheel docs loops wolf block mutations hostile kills slow test-slow \
	test-runtimes test-core test-flower-versions test-torch-versions release-check clean

# In one process: on two cores a second one needs longer to load torch than it saves.
demo: .venv/core
	$(BIN)/labelleak audit --data digits --model cnn --batch-sizes 1,8,32,128 --initialisations 5 \
		--out demo --overwrite --gzip
	@echo "Open demo/report.html in a browser."

test: .venv/dev
	$(MAKE) --no-print-directory check

check: lint types tests wheel docs

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

# Two processes: each file's tests in one of them, so that costly fixtures are made once. Bytecode is
# kept, since many tests start labelleak in a process of its own.
tests:
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile

wheel:
	rm -rf build/wheel && $(BIN)/python -m build --no-isolation --wheel --outdir build/wheel .
	$(BIN)/python tests/house/check_wheel.py build/wheel
	$(BIN)/python -m twine check --strict build/wheel/*

# The documentation site, without the network; ends with 1 at a warning or a link that leads nowhere.
docs: .venv/dev
	$(BIN)/python docs/make_site.py build/site

# Random training loops under labelleak.capture; ends with 1 if one is silently wrong.
LOOPS ?= 500
# Number of the first draw, for fresh ones: make loops FIRST=10000.
FIRST ?= 0
loops: .venv/core
	$(BIN)/python tests/loops/run.py $(LOOPS) $(FIRST)

# Ordinary right updates; ends with 1 if one is called impossible or is repaired.
WOLVES ?= 300
wolf: .venv/core
	$(BIN)/python tests/controls/wolf.py $(WOLVES) $(FIRST)

# Random models behind a client that blocks; ends with 1 if one leaves that leaks above the limit.
BLOCKED ?= 200
block: .venv/dev
	$(BIN)/python tests/flower/measure_block.py $(BLOCKED) $(FIRST)

# Right updates that are corrupted; prints what each raises (see docs/limits.md).
mutations: .venv/core
	$(BIN)/python tests/controls/mutations.py

# Hostile input for every reader, and good files; ends with 1 at a crash, a hang or a wrong answer.
hostile: .venv/dev
	$(BIN)/python tests/hostile/run.py

# Runs, searches, studies and a server, killed at random moments; ends with 1 if records differ.
KILLS ?= 30
kills: .venv/dev
	$(BIN)/python tests/hostile/kills.py $(KILLS)

# Wheel and source, as twine would upload them.
release-check: .venv/dev
	rm -rf dist && $(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/python -m twine check --strict dist/*

bench: .venv/core
	$(BIN)/labelleak bench

slow test-slow: .venv/dev
	$(BIN)/python -m pytest -m slow

# The example app on Flower's two runtimes: half a minute each on an idle machine.
test-runtimes: .venv/dev
	$(BIN)/python -m pytest -m slow tests/flower

# The fast suite without any extra: no Flower, Ray, Opacus or datasets.
test-core: build/core/ready
	build/core/bin/python -m pytest

# The Flower tests with every release that is supported, e.g. FLOWER="1.36 1.41".
test-flower-versions: .venv/dev
	$(BIN)/python tests/flower/check_versions.py $(FLOWER)

# The oldest and the newest torch, e.g. TORCH="2.6 2.10"; CPU builds of its makers' index.
test-torch-versions: .venv/dev
	$(BIN)/python tests/house/check_torch.py $(TORCH)

build/core/ready: .venv/pip pyproject.toml constraints.txt
	.venv/bin/python -m venv --clear build/core
	build/core/bin/python -m pip install --quiet -e . pytest hypothesis -c constraints.txt
	@touch $@

.venv/pip:
	@test -n "$(PYTHON)" || { echo "labelleak needs Python 3.11 or newer; none was found." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/core: .venv/pip pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -e . -c constraints.txt
	@touch $@

.venv/dev: .venv/core
	$(BIN)/python -m pip install --quiet -e ".[dev]" -c constraints.txt
	@touch $@

clean:
	rm -rf .venv build dist demo
