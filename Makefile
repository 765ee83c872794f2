# What can be done here. Each target installs what it needs and can be run again.

# Under sudo the user's own cargo builds, as the user.
CARGO ?= tests/cargo.sh
PREFIX ?= /usr/local
TARGET := $(or $(CARGO_TARGET_DIR),target)
SHARE = $(DESTDIR)$(PREFIX)/share
MANUAL = $(SHARE)/man/man1
# The folders that install writes to.
FOLDERS = '$(DESTDIR)$(PREFIX)/bin' '$(MANUAL)' '$(SHARE)/bash-completion/completions' \
    '$(SHARE)/zsh/site-functions' '$(SHARE)/fish/vendor_completions.d'
# The two programs that demo and playground run.
PROGRAMS = -p arcssh --bin arcssh -p arcssh-emulator --bin arcssh-emulator

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

demo: ## Run ssh, scp, sftp, rsync and the commands of arcssh against an emulated Azure
	@tests/tools.sh demo
	$(CARGO) build --locked $(PROGRAMS)
	$(TARGET)/debug/arcssh-emulator demo

# RUN is a command to run there instead of a shell.
playground: ## Open a shell with a home directory of its own, in which arcssh reaches emulated machines
	@tests/tools.sh playground
	$(CARGO) build --locked $(PROGRAMS)
	$(TARGET)/debug/arcssh-emulator playground $(if $(RUN),-- $(RUN))

# CHECK=--check compares instead.
session: ## Record the session that the README shows
	@tests/tools.sh session
	$(CARGO) build --locked $(PROGRAMS)
	$(TARGET)/debug/arcssh-emulator playground -- python3 '$(CURDIR)/tests/session.py' $(CHECK)

screens: ## Record docs/SCREENS.md: the screens of every command
	@tests/tools.sh test
	$(CARGO) build --locked $(PROGRAMS)
	SCREENS_PAGE='$(CURDIR)/docs/SCREENS.md' $(CARGO) test --locked --test it -- screens::

# The tests add a line for each test that this machine does not allow.
SKIPPED = $(abspath $(TARGET))/skipped

# One of the tests runs `make demo`, within a time limit: the build must be done by then. ssh rejects files that others may
# write, and the tests write some.
test: ## Run all tests, with the system's own ssh and sshd
	@tests/tools.sh test
	$(CARGO) build --locked $(PROGRAMS)
	@if command -v valgrind >/dev/null; then $(MAKE) --no-print-directory bench-check; fi
	@rm -f '$(SKIPPED)'
	umask 022 && SKIPPED='$(SKIPPED)' $(CARGO) nextest run --locked --workspace; status=$$?; cat '$(SKIPPED)' 2>/dev/null; exit $$status

check: ## Check format, lints, wording, and the dependencies' licences and sources
	@tests/tools.sh check
	tests/words.sh
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) deny --locked check bans licenses sources
	tests/advisories.sh

# The measuring program is a debug build whose dependencies are optimised; the emulator is in it.
BENCH = $(TARGET)/debug/arcssh-bench --arcssh '$(TARGET)/release/arcssh'
MEASURING = $(PROGRAMS) -p arcssh-bench --bin arcssh-bench
# The program that install installs.
RELEASE = CARGO='$(CARGO)' tests/release.sh
RECORD = tests/bench/instructions.json

# PART chooses parts, such as PART='start echo'. All parts together also write the table of the document.
bench: ## Measure the release build against the least work that a connection requires
	@tests/tools.sh bench
	$(CARGO) build --locked $(MEASURING)
	$(RELEASE)
	$(CARGO) build --locked --release -p arcssh-bench-limit
	$(BENCH) run $(PART) --json '$(TARGET)/bench.json' $(if $(PART),,--document docs/PERFORMANCE.md)

bench-check: ## Count round trips and instructions of the release build, and compare them with the recorded ones
	$(CARGO) build --locked $(MEASURING)
	$(RELEASE)
	$(BENCH) check $(RECORD)

bench-record: ## Record the instructions of the release build
	@tests/tools.sh bench
	$(CARGO) build --locked $(MEASURING)
	$(RELEASE)
	$(BENCH) record $(RECORD)

# BARE chooses the runs, such as BARE='demo-user'.
bare: ## Run demo and test on a minimal Debian 12, as root and as an ordinary user with sudo
	@tests/tools.sh bare
	tests/bare.sh $(BARE)

# The new program writes its own manual and completions.
install: ## Build arcssh for use and install it below PREFIX, with manual and completions
	@$(CARGO) --version
	@umask 022 && mkdir -p $(FOLDERS) && for folder in $(FOLDERS); do test -w "$$folder" || exit 1; done || { \
	    echo 'make: cannot install arcssh: you may not write below $(DESTDIR)$(PREFIX)' >&2; \
	    echo 'make: hint: for all users: sudo make install; for you alone: make install PREFIX=$$HOME/.local' >&2; exit 1; }
	@tests/tools.sh build
	$(RELEASE)
	install -m 755 '$(TARGET)/release/arcssh' '$(DESTDIR)$(PREFIX)/bin/arcssh'
	umask 022 && '$(TARGET)/release/arcssh' man '$(MANUAL)'
	umask 022 && '$(TARGET)/release/arcssh' completions bash > '$(SHARE)/bash-completion/completions/arcssh'
	umask 022 && '$(TARGET)/release/arcssh' completions zsh > '$(SHARE)/zsh/site-functions/_arcssh'
	umask 022 && '$(TARGET)/release/arcssh' completions fish > '$(SHARE)/fish/vendor_completions.d/arcssh.fish'
	@echo
	@echo 'arcssh is installed: $(DESTDIR)$(PREFIX)/bin/arcssh'
	@case ":$$PATH:" in *':$(PREFIX)/bin:'*) ;; *) echo 'Add this folder to PATH: $(PREFIX)/bin' ;; esac
	@echo 'Next, sign in, and give a machine a name in ~/.ssh/config:'
	@echo '  arcssh login'
	@echo '  arcssh config MACHINE --user USER'
	@echo '  ssh MACHINE'

package: ## Build archive, .deb, .rpm, image and SBOM of this system below target/package
	@tests/tools.sh package
	packaging/package.sh

package-check: ## Try the packages: in minimal Debian systems, an empty root and a second build
	@tests/tools.sh package-check
	packaging/check.sh $(PART)

# PART chooses parts, such as PART='windows mac'. Debian 12 only. The sets of tools have the names of the parts.
portability: ## Build for other systems, and run the demo under Wine, under qemu and as a static program
	@for part in $(or $(PART),windows static arm mac packages); do tests/tools.sh portability-$$part || exit; done
	tests/portability.sh $(PART)

uninstall: ## Remove what install put below PREFIX
	rm -f '$(DESTDIR)$(PREFIX)/bin/arcssh' '$(MANUAL)/arcssh.1' '$(MANUAL)/arcssh-'*.1 \
	    '$(SHARE)/bash-completion/completions/arcssh' '$(SHARE)/zsh/site-functions/_arcssh' \
	    '$(SHARE)/fish/vendor_completions.d/arcssh.fish'
	@echo 'arcssh is removed. Your host entries and your sign-in remain: see ~/.ssh/config and ~/.local/state/arcssh.'

# What takes longer than a test should; docs/TESTING.md says how long.
FAULTS = $(TARGET)/faults.tsv
SECONDS ?= 60
SOAK_MINUTES ?= 60

faults: ## Try every fault in every phase of a connection, and print the table
	@tests/tools.sh test
	$(CARGO) build --locked $(PROGRAMS)
	@rm -f '$(FAULTS)'
	FAULTS_TABLE='$(abspath $(FAULTS))' $(CARGO) test --locked --test it -- matrix::; \
	    status=$$?; tests/faults-table.sh '$(FAULTS)'; exit $$status

fuzz: ## Feed each parser random input for SECONDS=60
	@tests/tools.sh test
	FUZZ_SECONDS='$(SECONDS)' $(CARGO) test --locked --bin arcssh -- fuzz_tests:: any_content --nocapture

soak: ## Carry traffic with checksums for SOAK_MINUTES=60
	@tests/tools.sh test
	$(CARGO) build --locked $(PROGRAMS)
	SOAK_MINUTES='$(SOAK_MINUTES)' $(CARGO) test --locked --test it -- soak:: --nocapture

# Test suites of other projects, from the package registries. docs/TESTING.md explains each result that is not a success.
# SUITE_RECORD=1 records the result as the expected one.
SUITE = ARCSSH='$(abspath $(TARGET))/debug/arcssh' tests/suites/run.sh '$(abspath $(TARGET))/suites'

suite-websocket: ## Run the WebSocket cases of the Autobahn test suite
	@tests/tools.sh suite-websocket
	$(CARGO) build --locked -p arcssh --bin arcssh
	$(SUITE) websocket kosoku==0.1.0

suite-openssh: ## Run OpenSSH's own regression tests without arcssh and through it
	@tests/tools.sh suite-openssh
	$(CARGO) build --locked $(PROGRAMS)
	$(SUITE) openssh

suite-tls: ## Show arcssh certificates and TLS servers that it must reject or accept
	@tests/tools.sh suite-tls
	$(CARGO) build --locked -p arcssh --bin arcssh
	$(SUITE) tls

# Packages for Python 3.11, which Debian 12 has.
suite-clients: ## Use programs and libraries that speak SSH through arcssh, and print what works
	@tests/tools.sh suite-clients
	$(CARGO) build --locked $(PROGRAMS)
	npm install --prefix '$(abspath $(TARGET))/suites/node' --ignore-scripts --no-audit --no-fund --silent ssh2@1.17.0
	NODE_FOLDER='$(abspath $(TARGET))/suites/node' $(SUITE) clients paramiko==5.1.0 asyncssh==2.24.1 fabric==3.2.3 \
	    ssh-python==1.2.0.post1 ssh2-python==1.2.0.post1 ansible-core==2.19.14

.PHONY: help demo playground session screens test check bench bench-check bench-record bare install package package-check \
    portability uninstall faults fuzz soak suite-websocket suite-openssh suite-tls suite-clients
