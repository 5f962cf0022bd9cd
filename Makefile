# What a developer types. `make help` lists the targets.
SHELL := bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PKG ?= ./...
FUZZTIME ?= 30s
GOLANGCI_LINT_VERSION := v2.15.0

.PHONY: help run build test check race bench fuzz sim chaos soak cloud-init lint vuln cover generate pins

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

run: ## install what is missing, build, make the image, serve two warm machines on :3000
	@scripts/run.sh

build: ## build both programs into bin/
	@scripts/build.sh

test: ## install what the tests need, then everything CI does; prints a table of stages
	@scripts/test.sh

check: ## what needs no installing: vet, format, staticcheck, tree checks, go.mod, unit tests, a short simulation
	@scripts/test.sh quick

race: ## unit tests with the race detector
	go test -race -shuffle=on $(PKG)

bench: ## measure, and write docs/performance.md: COUNT=10 for benchstat, ONLY=engine prints what needs no VM, ONLY=agent the agent
	@scripts/bench.sh

fuzz: ## fuzz every parser for FUZZTIME each (30s)
	@scripts/fuzz.sh $(FUZZTIME)

sim: ## the simulation: SEEDS=2000, or SEED=k VERBOSE=1 to see one again; RACE=1, POSTGRES=1, CLOUDS=1
	@scripts/sim.sh

chaos: ## kill, stop and starve the real runner under load, and audit: KILLS=100 SEED= MODES= JSON=
	@scripts/chaos.sh long

soak: ## the same for long, and watch its memory: HOURS=1
	@scripts/chaos.sh soak

cloud-init: ## build the images debian and debian-docker (root, mmdebstrap) and boot them: as a cloud does, with a container step
	@scripts/cloud-init.sh

lint: ## golangci-lint, at a pinned version
	@scripts/lint.sh $(GOLANGCI_LINT_VERSION)

vuln: ## known vulnerabilities of the dependencies, if the database can be reached
	@scripts/vuln.sh

cover: ## test coverage by package; the whole in coverage.out
	go test -coverprofile=coverage.out $(PKG)
	go tool cover -func=coverage.out | tail -n 1

generate: ## write every golden file, schema and generated page anew; review the difference
	@scripts/generate.sh

pins: ## compile every direct dependency, also those not used yet
	go build -tags pins ./internal/pins
