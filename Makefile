# What can be done here. Every target sets up what it needs and can be run again.

CARGO ?= cargo
PREFIX ?= /usr/local
TARGET := $(or $(CARGO_TARGET_DIR),target)
SHARE = $(DESTDIR)$(PREFIX)/share

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: tools ## Run ssh, scp, sftp and rsync through arcssh against an emulated Azure
	$(CARGO) build --locked --workspace
	$(TARGET)/debug/arcssh-emulator demo

playground: tools ## Leave the emulated Azure and a machine up, and print what to type
	$(CARGO) build --locked --workspace
	$(TARGET)/debug/arcssh-emulator playground

# The demo is one of the tests: it is built beforehand, for it has a limit of time.
test: tools ## Run all tests, with the system's own ssh and sshd
	$(CARGO) build --locked --workspace
	$(CARGO) test --locked --workspace

check: tools ## Check format, lints, and the dependencies' licences and sources
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	tests/tools.sh cargo-deny
	$(CARGO) deny --locked check bans licenses sources
	tests/advisories.sh

bench: tools ## Measure throughput and start of the release build
	$(CARGO) build --locked --release --workspace
	TARGET='$(TARGET)' tests/bench.sh

# The program that was built writes its own manual and completions.
install: ## Build arcssh for use and install it below PREFIX, with manual and completions
	$(CARGO) build --locked --release
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(SHARE)/man/man1' '$(SHARE)/bash-completion/completions' \
	    '$(SHARE)/zsh/site-functions' '$(SHARE)/fish/vendor_completions.d'
	install -m 755 '$(TARGET)/release/arcssh' '$(DESTDIR)$(PREFIX)/bin/arcssh'
	'$(TARGET)/release/arcssh' man '$(SHARE)/man/man1'
	'$(TARGET)/release/arcssh' completions bash > '$(SHARE)/bash-completion/completions/arcssh'
	'$(TARGET)/release/arcssh' completions zsh > '$(SHARE)/zsh/site-functions/_arcssh'
	'$(TARGET)/release/arcssh' completions fish > '$(SHARE)/fish/vendor_completions.d/arcssh.fish'

tools:
	@tests/tools.sh

.PHONY: help demo playground test check bench install tools

# What takes longer than a test should; docs/TESTING.md tells how long.
FAULTS = $(TARGET)/faults.tsv
SECONDS ?= 60
SOAK_MINUTES ?= 60

faults: tools ## Try every fault in every phase of a connection, and print the table
	$(CARGO) build --locked --workspace
	@rm -f '$(FAULTS)'
	FAULTS_TABLE='$(abspath $(FAULTS))' $(CARGO) test --locked --test it -- matrix::; \
	    status=$$?; tests/faults-table.sh '$(FAULTS)'; exit $$status

fuzz: tools ## Feed each parser random input for SECONDS=60
	FUZZ_SECONDS='$(SECONDS)' $(CARGO) test --locked --bin arcssh -- fuzz:: any_content --nocapture

soak: tools ## Carry traffic with checksums for SOAK_MINUTES=60
	$(CARGO) build --locked --workspace
	SOAK_MINUTES='$(SOAK_MINUTES)' $(CARGO) test --locked --test it -- all_day:: --nocapture

.PHONY: faults fuzz soak
