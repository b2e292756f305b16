# Every target makes its environment by itself; nothing but make, git and a Python is needed
# beforehand.
#
#   PYTHON=python3.13   the interpreter for .venv and .venv-bench
#   ARGS="..."          passed on, e.g. make test ARGS="-k outbox -x"
#   ONLY=publish        of the benchmarks this one, or several with commas
#   WORKERS=4           so many processes run the tests; one more than there are cores by default
#   EVENTS_INSTALL=0    install nothing from Debian's packages; say what is missing instead

PYTHON ?=
ARGS ?=
ONLY ?=
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
BIN := .venv/bin

# A file tree is named like a target here, and .venv must be looked at each time.
.PHONY: help demo demo-rabbitmq chat test test-pythons test-lowest lint docs bench bench-faults \
	bench-guard soak-brokers format requirements build clean venv venv-demo
.DEFAULT_GOAL := help

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

demo: venv-demo ## run the example: a user registers, mails are sent, nothing is lost
	@.venv-demo/bin/python -m examples.user_registration $(ARGS)

demo-rabbitmq: venv-demo ## the same as three processes on RabbitMQ, two of which are killed meanwhile
	@.venv-demo/bin/python -m examples.user_registration.demo_rabbitmq $(ARGS)

chat: venv-demo ## run the chat at http://127.0.0.1:8000/; REDIS_URL=... for several servers of one chat
	@.venv-demo/bin/python -m examples.online_chat $(ARGS)

# The files of the suite are spread over processes: most tests wait for a server most of the time.
# With ARGS it may be a part of the suite, whose coverage says nothing, and one process runs it.
test: venv ## run all tests with coverage; ARGS="..." go to pytest (then without coverage)
	@./scripts/servers rabbitmq redis nats postgresql mariadb chromium openssl prometheus
	$(BIN)/python -m pytest $(if $(strip $(ARGS)),$(ARGS),-n $(WORKERS) --dist loadfile \
		--cov --cov-report=term:skip-covered)

test-pythons: venv ## run the units and the memory contracts on every other Python from 3.11 that is here
	@./scripts/pythons -n $(WORKERS) --dist loadfile $(ARGS)

test-lowest: ## run units and contracts with the oldest dependencies that pyproject.toml allows
	@PYTHON="$(PYTHON)" ./scripts/bootstrap lowest
	@./scripts/servers rabbitmq redis nats postgresql mariadb
	@.venv-lowest/bin/python -m pytest -q -n $(WORKERS) --dist loadfile $(or $(ARGS),tests/unit \
		tests/contracts --ignore=tests/unit/test_documentation_extensions.py \
		--ignore=tests/unit/test_check_site.py)

lint: venv ## ruff, mypy, pyright and the import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports
	@! git ls-files --cached --ignored --exclude-standard | grep . # is ignored, and yet committed

docs: venv ## build the documentation into build/docs, and check its links
	rm -rf build/docs
	$(BIN)/python -m sphinx -q -E -W --keep-going -d build/doctrees -b html docs build/docs
	$(BIN)/python scripts/check_site.py build/docs tests/public_api.txt

bench: ## measure against drivers and peers; ONLY=publish,relay for some, ARGS="--short"
	@PYTHON="$(PYTHON)" ./scripts/bootstrap bench
	@./scripts/servers rabbitmq redis nats postgresql mariadb
	@.venv-bench/bin/python -m benchmarks $(ONLY) $(ARGS)

bench-guard: venv ## count the instructions of dispatch and serialization, under valgrind
	@./scripts/servers valgrind
	@$(BIN)/python -m benchmarks.guard $(ARGS)

bench-faults: venv ## put ours and FastStream to the same crashes, half an hour
	@PYTHON="$(PYTHON)" ./scripts/bootstrap bench
	@./scripts/servers rabbitmq redis nats
	@$(BIN)/python -m benchmarks.faults $(ARGS)

soak-brokers: venv ## the buses' tests five times, on cores kept busy; ARGS="--rounds 2 redis"
	@./scripts/servers rabbitmq redis nats openssl
	@$(BIN)/python -m tests.soak $(ARGS)

format: venv ## let ruff fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

requirements: ## compile requirements/*.in to requirements/*.txt (needs uv on PATH)
	for each in dev demo test bench lowest; do \
		uv pip compile --no-config --universal --python-version 3.11 --generate-hashes \
			--no-emit-index-url --no-emit-find-links --no-header --annotation-style line \
			$$(case $$each in demo | test) echo -c requirements/dev.txt ;; esac) \
			$(ARGS) -o requirements/$$each.txt requirements/$$each.in || exit 1; \
	done

build: venv ## build the sdist and the wheel into dist/
	$(BIN)/python -m build --no-isolation

clean: ## remove .venv, dist and every cache
	rm -rf .venv .venv-bench .venv-demo .venv-lowest .venv-3.* dist build .coverage .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

venv:
	@PYTHON="$(PYTHON)" ./scripts/bootstrap

venv-demo:
	@PYTHON="$(PYTHON)" ./scripts/bootstrap demo
