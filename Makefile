# headrace. `make help` lists the targets; README.md has the two that matter.

SHELL := /bin/bash
GO    ?= go
BIN   := bin
TOOLS := $(CURDIR)/$(BIN)/tools

# Tools, exact versions.
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOFUMPT  := mvdan.cc/gofumpt@v0.12.0
GCASSERT := github.com/jordanlewis/gcassert/cmd/gcassert@v0.0.0-20260313214104-ad3fae17affe

# Debian packages by what needs them.
APT_TEST  := gcc g++ libc6-dev iproute2 nftables tcpreplay qemu-user-static python3 procps strace
APT_BPF   := clang llvm libbpf-dev linux-libc-dev
APT_GUEST := mmdebstrap e2fsprogs qemu-system-x86 busybox-static cpio xz-utils zstd iproute2 ethtool numactl \
	gcc libc6-dev libibverbs-dev ibverbs-providers ibverbs-utils perftest rdmacm-utils
APT_PEERS := gcc libc6-dev openmpi-bin libopenmpi-dev

# Packages whose tests send packets in real time: one after the other.
LIVE := /(bpf|dataplane/xsk|controlplane/(run|send|generate|doctor)|pinning/gaps|rdma/boot|internal/(boxes|demo|peersdemo|acceptance|netns))$$$$

# Inputs, not seconds: at the end of a time go test sometimes reports its own deadline
# as a failure of the target.
FUZZTIME  ?= 20000x
DURATION  ?=
BENCH     ?=

# Where `make install` puts things; DESTDIR goes before all of it, for packages.
PREFIX  ?= /usr/local
DESTDIR ?=
UNITS   := $(notdir $(wildcard systemd/system/*))

export CGO_ENABLED ?= 0

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## install what the tests use and a bare Debian 12 with Go lacks
	@$(call apt,$(APT_TEST))

.PHONY: deps-bpf
deps-bpf: ## install what `make generate` uses
	@$(call apt,$(APT_BPF))

.PHONY: deps-guest
deps-guest: ## install what `make test-guest` uses: QEMU, verbs and their tools
	@$(call apt,$(APT_GUEST))
	@# The guests' kernels are fetched by apt too, which must know them.
	@apt-cache show linux-image-amd64 linux-image-6.12-amd64 >/dev/null 2>&1 || (( EUID )) || apt-get update -qq

# apt installs those of the packages $(1) that are missing, if it may.
define apt
missing=(); for p in $(1); do dpkg -s $$p >/dev/null 2>&1 || missing+=($$p); done; \
if (( $${#missing[@]} )); then \
	if (( EUID )); then echo "make deps: as root, install: $${missing[*]}" >&2; \
	else apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null; fi; \
fi
endef

.PHONY: build
build: ## build bin/headrace
	@mkdir -p $(BIN)
	$(GO) build -trimpath -o $(BIN)/headrace ./cmd/headrace

.PHONY: install
install: build ## install the binary and what people read (PREFIX=/usr/local, DESTDIR=)
	install -Dm755 $(BIN)/headrace $(DESTDIR)$(PREFIX)/bin/headrace
	install -Dm644 -t $(DESTDIR)$(PREFIX)/share/doc/headrace docs/*.md README.md
	install -Dm644 -t $(DESTDIR)$(PREFIX)/share/doc/headrace/examples examples/*.yaml

# Units name the binary by its whole path.
at = sed 's,/usr/local/,$(PREFIX)/,g' $(1) | install -Dm$(3) /dev/stdin $(DESTDIR)$(2)

.PHONY: install-systemd
install-systemd: ## install the units, users, directories; enable by `systemctl enable --now headrace.target`
	@set -e; for u in $(UNITS); do $(call at,systemd/system/$$u,$(PREFIX)/lib/systemd/system/$$u,644); done
	@$(call at,systemd/isolate,$(PREFIX)/libexec/headrace/isolate,755)
	@$(call at,systemd/tuned/headrace/tuned.conf,/etc/tuned/profiles/headrace/tuned.conf,644)
	install -Dm644 systemd/sysusers.d/headrace.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/headrace.conf
	install -Dm644 systemd/tmpfiles.d/headrace.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/headrace.conf
	install -Dm644 systemd/network/10-headrace.link $(DESTDIR)$(PREFIX)/share/doc/headrace/examples/10-headrace.link
	@[ -n "$(DESTDIR)" ] || echo "now: systemd-sysusers; systemd-tmpfiles --create; systemctl daemon-reload"

.PHONY: uninstall
uninstall: ## remove what install and install-systemd put there; config, rows and users stay
	rm -f $(DESTDIR)$(PREFIX)/bin/headrace $(addprefix $(DESTDIR)$(PREFIX)/lib/systemd/system/,$(UNITS))
	rm -f $(DESTDIR)$(PREFIX)/lib/sysusers.d/headrace.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/headrace.conf
	rm -rf $(DESTDIR)$(PREFIX)/libexec/headrace $(DESTDIR)$(PREFIX)/share/doc/headrace $(DESTDIR)/etc/tuned/profiles/headrace

.PHONY: generate
generate: deps-bpf ## rebuild what is generated: BPF objects, config schema and reference, the API's document
	$(GO) generate ./...

.PHONY: generated
generated: generate ## fail if something generated is not current
	@git diff --exit-code --stat -- bpf docs || { echo "generated files are not current: commit what 'make generate' made" >&2; exit 1; }

.PHONY: run
run: build ## watch bars come out of multicast packets (DURATION=20s, CAPTURE=file.pcap.gz)
	@$(GO) build -trimpath -o $(BIN)/demo ./internal/demo
	@DURATION="$(DURATION)" CAPTURE="$(CAPTURE)" CONFIG="$(CONFIG)" $(BIN)/demo

.PHONY: run-peers
run-peers: build ## watch three boxes be one system, and one of them die and come back (as root; DURATION=30s)
	@$(GO) build -trimpath -o $(BIN)/peersdemo ./internal/peersdemo
	@DURATION="$(DURATION)" $(BIN)/peersdemo

.PHONY: test
test: deps build ## all tests; those that need root are skipped without it, saying so
	$(GO) test -timeout 20m $$($(GO) list ./... | grep -v -E '$(LIVE)')
	@# What fails there is tried once more: real time on a shared machine.
	$(GO) test -timeout 20m -p 1 $$($(GO) list ./... | grep -E '$(LIVE)') || \
	$(GO) test -timeout 20m -p 1 $$($(GO) list ./... | grep -E '$(LIVE)')

.PHONY: test-root
test-root: deps build ## the tests that need root, alone
	$(GO) test -timeout 20m -count=1 -run 'Root|Live|Netns' ./bpf/... ./dataplane/xsk/... ./controlplane/... ./pinning/... ./rdma/... ./internal/...

.PHONY: test-faults
test-faults: ## the data plane killed at any statement that changes memory (HEADRACE_LONG=1: many more)
	$(GO) test -tags faults -short -timeout 15m -p 1 ./dataplane/...

.PHONY: test-guest
test-guest: deps-guest ## the tests that need another kernel, in a guest under QEMU (no KVM)
	HEADRACE_GUEST=1 CGO_ENABLED=1 $(GO) test -timeout 40m -count=1 -p 1 -v -run Guest ./internal/guest/... ./rdma/verbs ./rdma/deliver ./internal/boxes ./systemd ./controlplane/run ./controlplane/tune ./controlplane/doctor

.PHONY: test-guest-short
test-guest-short: deps-guest ## those of them that stand for the rest: RDMA verbs, and global rows over them
	HEADRACE_GUEST=1 CGO_ENABLED=1 $(GO) test -short -timeout 10m -count=1 -v -run Guest ./internal/boxes

SCHEMATHESIS := schemathesis==4.32.5

$(BIN)/schemathesis/bin/schemathesis:
	@$(call apt,python3-venv)
	python3 -m venv $(BIN)/schemathesis
	$(BIN)/schemathesis/bin/pip install -q '$(SCHEMATHESIS)'

.PHONY: deps-api
deps-api: $(BIN)/schemathesis/bin/schemathesis ## install what `make test-api` uses: schemathesis, in bin/

.PHONY: test-api
test-api: deps-api ## made-up requests against the API, by its own document (EXAMPLES=100)
	$(GO) test -timeout 20m -count=1 -v -run Schemathesis ./controlplane/api -schemathesis $(or $(EXAMPLES),100)

.PHONY: race
race: ## the tests under the race detector, where it can see the memory
	CGO_ENABLED=1 $(GO) test -race -short -timeout 20m $$($(GO) list ./... | grep -v -e /perf/ -e /internal/acceptance -e /internal/demo -e /internal/peersdemo -e /internal/boxes -e /controlplane/run)

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME each (20000x, 5m)
	@set -e; for p in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
			echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -parallel 2 $$p; \
		done; \
	done

$(TOOLS)/golangci-lint:
	GOBIN=$(TOOLS) $(GO) install $(GOLANGCI)
$(TOOLS)/gofumpt:
	GOBIN=$(TOOLS) $(GO) install $(GOFUMPT)
$(TOOLS)/gcassert:
	GOBIN=$(TOOLS) $(GO) install $(GCASSERT)

.PHONY: lint
lint: $(TOOLS)/golangci-lint ## golangci-lint: the import diagram, errors, style
	$(TOOLS)/golangci-lint run ./...

.PHONY: fmt
fmt: $(TOOLS)/gofumpt ## format
	$(TOOLS)/gofumpt -w .

.PHONY: fmt-check
fmt-check: $(TOOLS)/gofumpt ## fail if something is not formatted
	@bad=$$($(TOOLS)/gofumpt -l .); [ -z "$$bad" ] || { echo "not formatted (make fmt): $$bad" >&2; exit 1; }

.PHONY: gcassert
gcassert: $(TOOLS)/gcassert ## what the compiler promised about inner loops still holds
	$(TOOLS)/gcassert ./dataplane/...

.PHONY: check
check: fmt-check ## everything: format, vet, lint, generated files, tests, kills, race, short fuzz
	$(GO) vet ./...
	$(GO) vet -tags faults ./...
	$(MAKE) lint gcassert generated test test-faults race fuzz FUZZTIME=5000x

.PHONY: bench
bench: deps build ## the benchmarks, beside C and C++ programs that do the same; a Markdown table
	CGO_ENABLED=0 $(GO) run ./perf/table $(BENCH)

.PHONY: deps-peers
deps-peers: ## install what `make bench-peers` sets beside ours: Open MPI
	@$(call apt,$(APT_PEERS))

.PHONY: bench-peers
bench-peers: deps-peers ## rounds among peers beside Open MPI's; a Markdown table (BENCH="-readings 9")
	CGO_ENABLED=0 $(GO) run ./perf/peers-collective $(BENCH)

.PHONY: clean
clean: ## remove what was built
	rm -rf $(BIN)
