# hookbed: `make testbed` for a first result, `make test` for the tests.
GO        ?= go
REVISION  := $(shell git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
LDFLAGS   := -s -w -X main.revision=$(REVISION)
HELPER    := driver/helper/embedded/guest
LINT      := .cache/bin/golangci-lint
LINT_VERSION := v2.15.0
NFPM      := .cache/bin/nfpm
NFPM_VERSION := v2.48.0
SBOM      := .cache/bin/cyclonedx-gomod
SBOM_VERSION := v1.10.0
RELEASE_OUT ?= .cache/release
REPRODUCE_OUT ?= runs/virtual-$(shell date +%Y%m%d-%H%M%S)
TESTBED_OUT ?= runs/testbed-$(shell date +%Y%m%d-%H%M%S)

# The guest helper, the driver, the tests and the linter are all compiled in the helper's way, so
# that Go's cache has each package once.
export CGO_ENABLED := 0
override GOFLAGS := -trimpath $(GOFLAGS)
export GOFLAGS

.PHONY: all deps build testbed reproduce nightly faults fuzz test test-vm test-browser test-slurm test-vagrant test-conformance test-cilium test-policies test-kernels box bench lint release release-check site generate clean

all: build

# Installs everything but Go itself, by the system's package manager. Quick when nothing is missing.
deps:
	@images/deps.sh

# The driver is one file: it embeds the guest helper, which is built first. The helper's bytes,
# whose digest is in every env.json, depend on its source and the version of Go only. Machines are of
# amd64, so a driver of another architecture has their helper, too.
build:
	@$(GO) build -trimpath -buildvcs=false -ldflags "-s -w -buildid=" -o $(HELPER) ./driver/guest
	@[ "$$($(GO) env GOARCH)" = amd64 ] || GOARCH=amd64 $(GO) build -trimpath -buildvcs=false -ldflags "-s -w -buildid=" -o $(HELPER)-amd64 ./driver/guest
	@$(GO) build -ldflags '$(LDFLAGS)' -o bin/driver ./driver

# The study's questions answered exactly, in virtual time; two VMs, real containers
# and real filters, each proven and measured; and one report of both.
testbed:
	@experiments/testbed.sh $(TESTBED_OUT)

# A small matrix in virtual time, compared with the stored baseline: exit code 5
# when something did not reproduce (docs/nightly.md).
nightly: deps build
	@bin/driver images build
	@.ci/nightly

# The study's matrix in virtual time, and what becomes of its claims. Exit code 5
# when one is contradicted.
reproduce: deps build
	@bin/driver images build
	@bin/driver run experiments/virtual.toml --out $(REPRODUCE_OUT)
	@bin/driver report $(REPRODUCE_OUT)
	@bin/driver verify $(REPRODUCE_OUT)

# Unit, golden, command-line, BPF verdict and local-provider end-to-end tests. Many of them mostly
# wait, so twice as many packages as there are CPUs run at once. `make lint` vets all packages, with
# every analyzer that `go test` has, so the tests are not vetted again.
test: deps build
	$(GO) test -vet=off -timeout 90m -p $$((2 * $$(nproc))) ./...

# The fault suite (docs/faults.md): so many runs on this computer, on machines that are reached by
# SSH, and in virtual machines, each with a fault that the seed chooses. `make test` has the first 30
# of seed 1. With LOG=FILE, what was stopped on this computer goes on.
FAULTS    ?= 100
FAULTS_SSH ?= 10
FAULTS_VM ?= 0
SEED      ?= 1
TOGETHER  ?= 8
faults: deps build
	$(GO) test -vet=off -v -count=1 -timeout 24h $(if $(filter-out 0,$(FAULTS_VM)),-tags vm) -run '^Test(Faults|FaultsOfMachines|VMFaults)$$' ./driver \
		-faults $(FAULTS) -faults.machines $(FAULTS_SSH) $(if $(filter-out 0,$(FAULTS_VM)),-faults.vm $(FAULTS_VM)) -faults.seed $(SEED) -faults.together $(TOGETHER) -faults.table $(CURDIR)/faults.md $(if $(LOG),-faults.log $(abspath $(LOG)))

# Every fuzz target for FUZZTIME, or the part of them that FUZZPART names (.ci/fuzz); `make test` has
# what is in their corpora.
FUZZTIME  ?= 10s
FUZZPART  ?= 1/1
fuzz:
	@FUZZTIME=$(FUZZTIME) FUZZPART=$(FUZZPART) .ci/fuzz

# End to end on libvirt VMs, under emulation where there is no KVM. The driver's tests load the whole
# computer, so no other package runs at the same time; two of them do (driver/apart_vm_test.go).
test-vm: deps build
	$(GO) test -vet=off -tags vm -count=1 -timeout 40m -p 2 -run 'VM' ./images ./driver/vm ./driver/guest/step ./driver/lab
	$(GO) test -vet=off -tags vm -count=1 -timeout 40m -run 'VM' ./driver

# A real Slurm of two nodes on this computer: drain, kill -9, requeue, preemption, time limit; what is
# merged must be the bytes of a run that was never split (docs/scale.md).
test-slurm: deps build
	$(GO) test -vet=off -tags vm -v -count=1 -timeout 90m -run '^TestSlurm' ./driver

# Reports of every size on both clocks in Chromium, with every check of each.
test-browser: deps build
	$(GO) test -vet=off -v -count=1 -timeout 40m ./experiments/browser -every

# A box for vagrant-libvirt of our own images (docs/machines.md). Needs qemu-utils.
box: build
	@bin/driver images box --out .cache/box

# `make box`, `vagrant up` and experiments/vagrant.toml, with a libvirtd and a Vagrant home of
# their own that end with it. Needs the packages vagrant, vagrant-libvirt, qemu-utils and
# dnsmasq-base, which `make deps` does not install.
test-vagrant: box
	@.ci/vagrant

# Every arm against the conformance suite, here and in a VM of the pinned kernel
# (docs/conformance.md). Under emulation the second takes long.
test-conformance: deps build
	$(GO) test -count=1 -timeout 30m -run 'TestConform' ./driver/datapath/datapathtest -all -table $(CURDIR)/conformance-local.md
	$(GO) test -tags vm -v -count=1 -timeout 300m -run 'TestVMConform' ./driver -conform.parallel 8 -conform.arms '' -conform.table $(CURDIR)/conformance-vm.md

# Cilium's agent against the conformance suite, here, from the image that HOOKBED_CILIUM_IMAGE names
# (docs/cilium.md): NAME@sha256:..., or the absolute path of a file of docker save or OCI.
test-cilium: deps build
	@test -n "$$HOOKBED_CILIUM_IMAGE" || { echo 'HOOKBED_CILIUM_IMAGE is not set; set it to an image of Cilium, as in docs/cilium.md' >&2; exit 1; }
	$(GO) test -tags cilium -v -count=1 -timeout 60m -run '^TestCilium' ./driver/datapath/datapathtest -table $(CURDIR)/conformance-cilium.md

# Many random sets of policies, which every filter must answer as the policies are written: as its
# rendered rules say, and as the kernel judges packets (docs/policies.md).
test-policies: deps build
	$(GO) test -count=1 -v -timeout 120m ./driver/datapath/verdict -sets 10000 -kernel-sets 1000 -netfilter-sets 1000

# Every BPF program's verdicts, and one arm of each mechanism against the
# conformance suite, on every locked kernel, and a trace of each; and a trace of every filter and of
# every workload, and one whose link is cut, on the default one. Prints tables (docs/kernels.md).
test-kernels: deps build
	HOOKBED_KERNELS_TABLE=$(CURDIR)/conformance-kernels-bpf.md $(GO) test -tags vm -count=1 -timeout 60m -run '^TestKernels$$' ./driver/guest/step
	@cat conformance-kernels-bpf.md
	$(GO) test -tags vm -count=1 -timeout 180m -run '^TestKernels(Conform|NIC|OneNIC)$$' ./driver -conform.table $(CURDIR)/conformance-kernels.md
	@cat conformance-kernels.md
	$(GO) test -tags vm -v -count=1 -timeout 150m -run '^Test(KernelsTrace|KernelsEven|KernelsDrop|FiltersTrace|WorkloadsTrace|TraceCut)$$' ./driver

# Ratios within one run: boot against the bare kernel, the driver's overhead,
# BPF programs against an empty one and those of other projects, loading policies, reading rows.
bench: deps build
	$(GO) test -run '^$$' -bench . -benchtime 300ms ./bpf
	$(GO) test -run '^$$' -bench . -benchtime 1x ./analysis/runs
	$(GO) test -tags vm -run '^$$' -bench . -benchtime 1x -timeout 40m -p 1 ./driver/vm ./driver/lab ./driver

lint: $(LINT)
	$(LINT) run ./...
	@LINT=$(abspath $(LINT)) .ci/lint-arrows
	@.ci/lint-prose

$(LINT):
	GOBIN=$(abspath .cache/bin) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)

# What is published: binaries, packages, SBOMs and their SHA-256, for amd64 and arm64.
release: $(NFPM) $(SBOM)
	@GO=$(GO) .ci/release $(RELEASE_OUT)

# Makes it twice, from copies of the last commit in two places, and compares every byte.
release-check: $(NFPM) $(SBOM)
	@GO=$(GO) .ci/release-check

# The web site of docs, with the reports of docs/results. Needs the package hugo, which `make deps` does
# not install.
site: build
	@.ci/site .cache/site

$(NFPM):
	GOBIN=$(abspath .cache/bin) $(GO) install github.com/goreleaser/nfpm/v2/cmd/nfpm@$(NFPM_VERSION)

$(SBOM):
	GOBIN=$(abspath .cache/bin) $(GO) install github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@$(SBOM_VERSION)

# Rebuilds what is committed although it is made: the BPF objects, and the script of report.html.
# Tests fail when they differ from their sources. This and the tests of reports need npm.
generate: deps
	$(GO) generate ./bpf
	cd analysis/report/page && npm ci --ignore-scripts --no-audit --no-fund && npm run bundle

clean:
	rm -rf bin .cache $(HELPER) $(HELPER)-amd64
