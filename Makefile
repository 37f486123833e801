# Every target installs what it needs; none needs another to be run first.
SHELL := /bin/bash
PY := .venv/bin/python
.DEFAULT_GOAL := help

help:  ## what can be done here
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# uv installs from the lock in seconds; where it can't be had, plain pip installs the same pins from pyproject.toml.
.venv/.installed: pyproject.toml uv.lock
	@if command -v uv >/dev/null 2>&1 || python3 -m pip install --quiet --user uv 2>/dev/null || python3 -m pip install --quiet uv 2>/dev/null; then \
	  UV=$$(command -v uv || echo "python3 -m uv"); $$UV sync --quiet --locked --extra rehearse; \
	else python3 -m venv .venv && $(PY) -m pip install --quiet 'pip<26.3' && $(PY) -m pip install --quiet -e '.[rehearse]' --group dev; fi
	@touch $@

SCENARIO ?= warned
SEED ?= 1
REHEARSE = $(PY) -m spotrelay.cli rehearse --seed $(SEED) $(if $(RUN),--run $(RUN)) $(if $(REPO),--repo $(REPO)) \
  $(if $(KEEP),--keep) $(if $(JSON),--json)

rehearse: .venv/.installed  ## train, lose the instance, go on, prove it (SCENARIO= SEED= RUN= REPO= KEEP=1 JSON=1)
	$(REHEARSE) --scenario $(SCENARIO)

rehearse-all: .venv/.installed  ## the same for every scenario
	$(REHEARSE) --scenario all

rehearse-foreign: .venv/.installed  ## a trainer from PyPI that knows nothing of us, warned and unwarned
	$(REHEARSE) --run examples/foreign/run.yaml --scenario warned --scenario unwarned

# Left out, each keeps what was deployed before (or its default).
ACCOUNT_OPTIONS = $(if $(STAGE),--stage $(STAGE)) $(if $(REGION),--region $(REGION)) $(if $(PROFILE),--profile $(PROFILE)) \
  $(if $(JSON),--json)

deploy: .venv/.installed  ## put the controller into your AWS account (STAGE= REGION= EMAIL= LIMIT= BUCKET= DRY=1 YES=1)
	$(PY) -m spotrelay.cli deploy $(ACCOUNT_OPTIONS) $(if $(YES),--yes) $(if $(EMAIL),--email $(EMAIL)) $(if $(LIMIT),--limit $(LIMIT)) \
	  $(if $(BUCKET),--bucket $(BUCKET)) $(if $(DRY),--dry-run)

destroy: .venv/.installed  ## take it out again, all but the bucket (STAGE= REGION= DRAIN=1 YES=1)
	$(PY) -m spotrelay.cli destroy $(ACCOUNT_OPTIONS) $(if $(YES),--yes) $(if $(DRAIN),--drain)

doctor: .venv/.installed  ## what is wrong with a deployment, and how to mend it (STAGE= REGION= ONLINE=1 JSON=1)
	$(PY) -m spotrelay.cli doctor $(ACCOUNT_OPTIONS) $(if $(ONLINE),--online)

test: .venv/.installed  ## everything: unit, properties, contracts, and two rehearsals
	$(PY) -m pytest -m 'not alone' --numprocesses 2 --dist loadfile
	$(PY) -m pytest -m alone

fuzz: .venv/.installed  ## random worlds for every invariant, over 100,000 steps, and ten months (about ten minutes; SEED=)
	HYPOTHESIS_PROFILE=fuzz MONTHS=10 $(PY) -m pytest tests/test_random_worlds.py tests/test_a_month.py --hypothesis-seed=$(SEED)

month: .venv/.installed  ## a thousand runs over a month, from one seed (SEED= RUNS=)
	$(PY) -m tests.sim.month --seed $(SEED) $(if $(RUNS),--runs $(RUNS))

fuzz-api: .venv/.installed  ## random requests to the deployed API, for some minutes (SEED=)
	API_EXAMPLES=100 $(PY) -m pytest tests/test_api_fuzz.py --hypothesis-seed=$(SEED)

bench: .venv/.installed  ## the design's numbers, reached beside wanted (about ten minutes; QUICK=1 three, ONLY=part, JSON=path)
	$(PY) -m benchmarks $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(if $(JSON),--json $(JSON))

faults: .venv/.installed  ## every fault at every AWS call of controller and agent, simulated and real (about half an hour)
	SPOT_RELAY_FAULTS=all $(PY) -m pytest --numprocesses 2 --dist load tests/test_every_fault.py tests/test_real_faults.py \
	  tests/test_agent_under_attack.py tests/test_agent_api_faults.py tests/test_agent_metadata.py tests/test_agent_death.py \
	  tests/test_agent_credentials.py tests/test_agent_at_scale.py

storm: .venv/.installed  ## a third of 10,000 live runs lost in one minute (about five minutes; RUNS=)
	SPOT_RELAY_STORM=$(or $(RUNS),10000) $(PY) -m pytest tests/test_storm.py

check: .venv/.installed  ## formatting, lint, types
	$(PY) -m ruff format --check . && $(PY) -m ruff check . && $(PY) -m mypy

# checkov brings a hundred packages of its own, other pins of ours among them: it gets an environment of its own.
CHECKOV = $$(command -v uv || echo "python3 -m uv") tool run --quiet checkov@3.3.30

lint-template: .venv/.installed  ## the template, by cfn-lint and by checkov (exceptions and reasons are in its Metadata)
	.venv/bin/cfn-lint --regions us-east-1 --template .chalice/resources.yaml
	$(CHECKOV) --file .chalice/resources.yaml --framework cloudformation --compact --quiet --skip-download

docs-tables: .venv/.installed  ## write the table of who may do what into docs/security.md anew, from the template
	$(PY) -m spotrelay.deploying.who_can --write

prove-least-privilege: .venv/.installed  ## what breaks without each permission, for docs/least-privilege.md (a quarter of an hour)
	$(PY) -m spotrelay.privileges

format: .venv/.installed  ## format and mend what can be mended
	$(PY) -m ruff format . && $(PY) -m ruff check --fix .

.PHONY: help rehearse rehearse-all rehearse-foreign deploy destroy doctor test fuzz month fuzz-api faults storm bench check lint-template prove-least-privilege docs-tables format
