# Everything sets itself up: a Python (3.11 or newer) and make are all that is needed.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DEMO := demo

.PHONY: help demo test test-all test-gpu fuzz lint bench clean

help:  ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev --editable '.[heif,parquet,thorough,web]'
	touch $@

demo: $(READY)  ## build a catalog of data/photos and edited copies, query it, find the copies, write two pages
	$(BIN)/python data/make_copies.py data/photos $(DEMO)/pictures
	$(BIN)/indexer build $(DEMO)/pictures --catalog $(DEMO)/catalog --model data/eva-tiny
	$(BIN)/indexer query $(DEMO)/pictures/cat.jpg $(DEMO)/pictures/bridge.jpg $(DEMO)/pictures/astronaut.jpg -k 8 \
		--catalog $(DEMO)/catalog --html $(DEMO)/gallery.html
	$(BIN)/indexer dedup --catalog $(DEMO)/catalog --plan $(DEMO)/plan.json --html $(DEMO)/groups.html > $(DEMO)/groups.txt
	@echo "Open $(DEMO)/gallery.html and $(DEMO)/groups.html in a browser."

# threads of two processes share the cores: one that spins while it waits would take the other's time
test: lint  ## check style and types, and run the tests, two files at a time
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-all: lint  ## the same with what takes minutes: EVA-L, large collections
	$(BIN)/python -m pytest -m 'not gpu'

test-gpu: $(READY)  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

fuzz: $(READY)  ## look for pictures and histories that break something, for long
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest tests/fuzz --timeout 36000

lint: $(READY)  ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(READY)  ## measure speed on this machine
	$(BIN)/indexer bench --model data/eva-tiny
	$(BIN)/python -m benchmarks.build
	$(BIN)/python -m benchmarks.throughput --precisions fp32,int8
	$(BIN)/python -m benchmarks.supervision
	$(BIN)/python -m benchmarks.decoding
	$(BIN)/python -m benchmarks.store
	$(BIN)/python -m benchmarks.scanning
	$(BIN)/python -m benchmarks.copies
	$(BIN)/python -m benchmarks.dedup

clean:  ## remove what the other targets made
	rm -rf .venv $(DEMO)
