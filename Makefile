# wharf. `make` alone lists what there is.
#
#   make GO=/path/to/go ...      another Go than the one on PATH
#   make DESTDIR=/tmp/x install  stage an installation (packagers)

GO      ?= go
PREFIX  ?= /usr
DESTDIR ?=
# Debian 12 keeps units in /lib/systemd; PREFIX=/usr reaches it by usrmerge.
UNITDIR ?= $(PREFIX)/lib/systemd/system

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
LDFLAGS  = -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

export CGO_ENABLED = 0

.DEFAULT_GOAL := help
.PHONY: help build kernel vmtest-kvm check unit test vmtest e2e-vm example demo bench images install uninstall clean cross setup fmt go-version

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

go-version:
	@GO="$(GO)" sh test/go-version.sh

build: go-version ## all binaries into bin/
	@mkdir -p bin
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

kernel: ## a small kernel for virtual machines, into .cache/kernel/out (ten minutes; make install takes it along)
	@bash packaging/kernel/build.sh

vmtest-kvm: go-version ## the KVM way on a machine without it: machines in an emulated machine with SVM; ONLY="daemon" (root; many minutes)
	@GO="$(GO)" bash test/vmtest-kvm.sh

check: go-version ## formatting, vet, lint, import table, unit tests, generated files unchanged
	@GO="$(GO)" bash test/check.sh

unit: go-version ## unit tests alone (those that need root skip without it)
	$(GO) test ./internal/... ./api/... ./cmd/...

vmtest: go-version ## runtime, native driver and quotas on Debian's own kernel in QEMU, cgroup v2 only (no root)
	@GO="$(GO)" $(GO) run ./test/vmtest

setup: ## install by apt what tests and demo need (root)
	@bash test/setup.sh test

test: go-version ## everything: check, root and end-to-end tests (root)
	@GO="$(GO)" bash test/run.sh

e2e-vm: go-version ## the end-to-end cases of containers once more, in virtual machines; ONLY=regexp, ONLY=short (root; half an hour without KVM)
	@GO="$(GO)" bash test/e2e-vm.sh $(if $(ONLY),'$(ONLY)')

example: go-version ## the Compose project in examples/shop from up to down, with a daemon of its own (root)
	@GO="$(GO)" bash test/example.sh

demo: go-version ## a daemon of its own, two real images, a tour; leaves nothing behind (root)
	@GO="$(GO)" bash test/demo.sh

bench: go-version build ## measure beside the installed peers, write docs/performance.md; ONLY=scale: that section alone (root)
	@GO="$(GO)" bash test/bench.sh $(if $(ONLY),-section $(ONLY))

images: go-version ## the test images alone, into .cache/images
	@GO="$(GO)" bash test/images.sh

install: build ## binaries, units, completion, wharf/base under DESTDIR and PREFIX
	@GO="$(GO)" DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" UNITDIR="$(UNITDIR)" bash packaging/install.sh

uninstall: ## remove what install placed (data and configuration stay)
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" UNITDIR="$(UNITDIR)" bash packaging/install.sh --remove

cross: go-version ## build for arm64 too, into bin/arm64/
	@mkdir -p bin/arm64
	GOARCH=arm64 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/arm64/ ./cmd/...

fmt: ## gofmt everything
	gofmt -l -w api cmd examples internal test packaging

clean: ## remove bin/ and .cache/
	rm -rf bin .cache
