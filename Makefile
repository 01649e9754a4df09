# make demo | make test | make test-fast | make lint | make docs
PYTHON ?= python3
BIN := .venv/bin

.PHONY: venv demo test test-fast lint docs clean

venv: .venv/installed

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "Python 3.11 to 3.13 is needed: make venv PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

demo: venv
	$(BIN)/python -m tfds_builders prepare derm_phantom/demo --data_dir data
	$(BIN)/python launch.py --config=configs/isic_curriculum.py:demo --workdir=runs/demo
	$(BIN)/python -m aiseeme_jax predict runs/demo --images docs/new_images --out runs/demo/new_images.csv
	@echo 'report: runs/demo/report.html, predictions of new images: runs/demo/new_images.csv'

# Compiled test files are kept between runs, also where the environment says otherwise: to compile them takes each worker
# as long as to read them.
test test-fast: export PYTHONDONTWRITEBYTECODE =

test: venv
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test-fast: venv
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal -m "not slow"

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf .venv .pytest_cache .ruff_cache site
