# Sandgate. `make` alone lists the targets; whatever is missing on the machine is installed on the way, once.
# Targets that start sandboxes need root: run them as root or where `sudo` asks for nothing.

CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sandgate
BIN   := $(CACHE)/bin
ADDR  ?= 127.0.0.1:3000
STATE ?= $(or $(XDG_STATE_HOME),$(HOME)/.local/state)/sandgate
MANIFESTS ?= examples/local
ALLOW_HOST_PATHS ?=
LOOPBACK ?=
CSI_PLUGINS ?= $(BIN)

SUDO    := $(if $(filter 0,$(shell id -u)),,sudo -E)
ASROOT  := $(SUDO) env PATH=$(PATH) CACHE=$(CACHE)
INSTALL := e2e/install.sh
export CACHE

.DEFAULT_GOAL := help
.PHONY: help run demo test bench lint fmt clean build vet unit sdk sdk-python sdk-js docs verify generate cluster images e2e unit-kube bench-kube bench-storage herd

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## --- for everyday use ---

run: deps-run build ## serve on ADDR (127.0.0.1:3000); STATE=, MANIFESTS=, ALLOW_HOST_PATHS=/a:/b, LOOPBACK=1
	@exec $(ASROOT) $(BIN)/sandgate run -addr "$(ADDR)" -state "$(STATE)" -manifests "$(MANIFESTS)" \
		-allow-host-paths "$(ALLOW_HOST_PATHS)" $(if $(LOOPBACK),-loopback-endpoints) -bin "$(BIN)"

clean: build ## end every sandbox of STATE and what it mounted
	@$(ASROOT) $(BIN)/sandgate clean -state "$(STATE)"

demo: deps-run build $(BIN)/versitygw ## e2e/demo/example.py against a real object store
	@$(INSTALL) python 2.63.0
	@$(ASROOT) $(BIN)/e2e demo

## --- for those who change it ---

test: ## everything that CI runs: lint, vet, house rules, unit and integration tests, SDK suites, a real cluster
	@$(MAKE) --no-print-directory lint vet unit unit-kube sdk e2e herd e2e-nfs

lint: $(BIN)/golangci-lint ## golangci-lint with .golangci.yml, gofmt included
	@echo "== lint"
	@$(BIN)/golangci-lint run --allow-parallel-runners ./...

vet:
	@echo "== vet"
	@go vet ./...

unit: deps-run build $(BIN)/gotestsum $(BIN)/versitygw $(BIN)/csi-sanity $(BIN)/controller-gen $(BIN)/gce-pd-csi-driver ## house rules, unit and integration tests with -race, as root
	@$(INSTALL) fio
	@$(INSTALL) ext4
	@echo "== house rules, unit and integration tests"
	@mkdir -p $(CACHE)/reports
	@$(BIN)/gotestsum --format standard-quiet --junitfile $(CACHE)/reports/go.xml -- \
		-race -timeout 20m -exec "$(ASROOT) VERSITYGW=$(BIN)/versitygw CSI_SANITY=$(BIN)/csi-sanity SANDGATE_BIN=$(BIN) \
		CONTROLLER_GEN=$(BIN)/controller-gen CSI_PLUGINS=$(CSI_PLUGINS)" ./...

unit-kube: cluster ## the tests that need a real API server, one package at a time
	@echo "== tests on a real API server"
	@KUBE_ASSETS=$(CACHE)/cluster/bin go test -race -p 1 -timeout 20m ./cmd ./cmd/controller ./cmd/gateway ./injector \
		./warmpool/api/... ./warmpool/controller/... ./warmpool/kube/... ./warmpool/warmpooltest/...

sdk: sdk-python sdk-js verify ## the real Python and JS SDKs at three versions each against a real server

sdk-python: deps-run build $(BIN)/versitygw
	@$(INSTALL) python $(notdir $(wildcard e2e/sdk/python/pins/*))
	@$(ASROOT) $(BIN)/e2e sdk -language python

sdk-js: deps-run build $(BIN)/versitygw
	@$(INSTALL) js $(notdir $(wildcard e2e/sdk/js/pins/*))
	@$(ASROOT) $(BIN)/e2e sdk -language js

verify: build ## fails when docs/compatibility.md says something else than the last SDK runs
	@$(BIN)/e2e matrix -check docs/compatibility.md

docs: build ## writes docs/compatibility.md from the reports of the last SDK runs
	@$(BIN)/e2e matrix -write docs/compatibility.md

bench: deps-run build $(BIN)/versitygw ## the figures: p50, p95, p99 of create, mount, proxy
	@$(ASROOT) $(BIN)/e2e bench

bench-kube: deps-run cluster ## the figures of create on a real API server, with kwok's pods: p50, p95, p99, writes, conflicts, as root
	@$(ASROOT) e2e/kube/bench.sh bench

bench-storage: deps-run build $(BIN)/versitygw ## the figures of volumes: attach, ready, six at once, healing, throughput, memory; as root, and NFS in a guest
	@CGO_ENABLED=0 go build -tags grpcnotrace -trimpath -ldflags="-s -w" -o $(BIN)/ ./cmd/csiagent
	@CGO_ENABLED=0 go build -trimpath -o $(BIN)/ ./e2e/storagebench
	@$(ASROOT) $(BIN)/storagebench -bin $(BIN) -agent $(BIN)/csiagent
	@go test -count=1 -v -run FourHundred -exec "$(ASROOT) SANDGATE_BIN=$(BIN)" ./e2e/volumes
	@e2e/nfs/guest.sh -test.run SixVolumes

herd: deps-run cluster ## 1,000 creates at once at three gateways and a pool of 200 on a real API server, as root
	@$(ASROOT) e2e/kube/bench.sh herd

e2e: deps-run cluster $(BIN)/versitygw ## helm install, the seed and the real SDK on a real cluster on this machine, as root
	@$(INSTALL) python 2.63.0
	@$(INSTALL) js 2.51.0
	@$(ASROOT) e2e/kube/run.sh

.PHONY: e2e-nfs
e2e-nfs: ## NFS volumes of every version against a real server, in an emulated machine with a kernel of its own
	@$(INSTALL) go
	@e2e/nfs/guest.sh

images: cluster ## the product's images as OCI archives in CACHE/images, without a container engine
	@e2e/images.sh

generate: $(BIN)/controller-gen ## deep copies and CRDs from warmpool/api
	@cd warmpool/api/v1alpha1 && PATH=$(BIN):$$PATH go generate .

fmt: ## gofmt
	@gofmt -l -w $$(git ls-files '*.go')

## --- what the others stand on ---

.PHONY: deps-run
deps-run:
	@$(INSTALL) system

build:
	@$(INSTALL) go
	@mkdir -p $(BIN)
	@CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o $(BIN)/ ./cmd/envd ./cmd/starter
	@CGO_ENABLED=0 go build -trimpath -o $(BIN)/ ./cmd/sandgate ./e2e

# A Kubernetes of our own; the first build takes 5 to 20 minutes.
cluster:
	@$(INSTALL) go
	@$(ASROOT) SANDGATE_CLUSTER_WITH="helm coredns" e2e/cluster/cluster.sh build

# External tools: one module each, so that none bends the product's dependencies. Rebuilt when its pin changes.
$(BIN)/golangci-lint $(BIN)/versitygw $(BIN)/gotestsum $(BIN)/csi-sanity $(BIN)/controller-gen $(BIN)/gce-pd-csi-driver: $(BIN)/%: e2e/tools/%/go.mod e2e/tools/%/go.sum
	@$(INSTALL) go
	@$(INSTALL) tool $*
