# make demo   the whole path on a small made-up world, under 10 minutes on two cores once it is installed; ends with a page
# make test   every test
# make docs   the site, out/site/index.html, without a network
# make bench  the benchmarks that need no GPU, small, 5 to 15 minutes on two cores; what is larger is in docs/benchmarks.md
PYTHON ?= python3
VENV ?= .venv
OUT ?= out
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test docs bench lint clean

# One environment in the project's own folder; torch and torchvision come together, from one index.
$(VENV)/.train: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[train]"
	touch $@

# With what developers need beside.
$(STAMP): $(VENV)/.train
	$(BIN)/python -m pip install --quiet -e ".[train,dev]"
	touch $@

demo: $(VENV)/.train
	$(BIN)/satmip-data demo $(OUT)/world
	$(BIN)/satmip-data build $(OUT)/world $(OUT)/shards --size 96 --context 0.4 --gsd ground --samples-per-shard 256 --where "cloud_cover < 30"
	$(BIN)/satmip-data validate $(OUT)/shards
	$(BIN)/satmip-train --shards $(OUT)/shards --recipe demo --out $(OUT)/runs/satmips
	$(BIN)/satmip-train --shards $(OUT)/shards --recipe demo --shuffle-metadata --out $(OUT)/runs/satmips-shuffled
	$(BIN)/satmip-train --shards $(OUT)/shards --recipe demo --objective simclr --out $(OUT)/runs/simclr
	$(BIN)/satmip-eval report --shards $(OUT)/shards --runs $(OUT)/runs/satmips $(OUT)/runs/satmips-shuffled $(OUT)/runs/simclr --out $(OUT)/report

# Two processes of one thread each: threads of several processes wait for one another by spinning, which takes twice as long.
test: $(STAMP)
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

$(VENV)/.docs: $(VENV)/.train
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	touch $@

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --site-dir $(OUT)/site
	@echo "Open $(OUT)/site/index.html"

# With what is measured beside; real file sizes where SATMIP_REAL_DATA names the data.
$(VENV)/.bench: $(STAMP)
	$(BIN)/python -m pip install --quiet -e ".[bench,fast]"
	touch $@

bench: $(VENV)/.bench
	$(BIN)/python tests/benchmarks/run.py --out $(OUT)/bench

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

clean:
	rm -rf $(VENV) $(OUT) build *.egg-info
