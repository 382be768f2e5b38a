#!/usr/bin/env bash
# `make install` and `make uninstall`: where a distribution would put things.
# Stages below DESTDIR. Nothing is started; data and configuration are never
# touched by --remove.
set -euo pipefail
cd "$(dirname "$0")/.."
DESTDIR=${DESTDIR:-} PREFIX=${PREFIX:-/usr}
UNITDIR=${UNITDIR:-$PREFIX/lib/systemd/system}
GO=${GO:-go}
bindir=$PREFIX/bin
sharedir=$PREFIX/share
files=(
	"$bindir/wharf" "$bindir/wharf-compose" "$bindir/wharfd" "$bindir/wharf-monitor" "$bindir/wharf-logger" "$bindir/wharf-registry" "$bindir/wharf-oci"
	"$bindir/wharf-vmm" "$bindir/wharf-guest"
	"$UNITDIR/wharfd.service" "$UNITDIR/wharfd.socket" "$PREFIX/lib/sysusers.d/wharf.conf"
	"$sharedir/wharf/base.tar"
	"$sharedir/bash-completion/completions/wharf" "$sharedir/zsh/vendor-completions/_wharf"
	"$sharedir/fish/vendor_completions.d/wharf.fish"
	"$sharedir/doc/wharf/README.md" "$sharedir/doc/wharf/CHANGELOG.md" "$sharedir/doc/wharf/copyright"
)

# docker finds its plugins here. A docker-compose that is there already, in any
# of docker's places, is left alone and wins.
plugin=$PREFIX/lib/docker/cli-plugins/docker-compose
ours() { [ -L "$1" ] && [ "$(basename "$(readlink "$1")")" = wharf-compose ]; }

if [ "${1:-}" = --remove ]; then
	! ours "$DESTDIR$plugin" || rm -f "$DESTDIR$plugin"
	rmdir "$DESTDIR$PREFIX/lib/docker/cli-plugins" "$DESTDIR$PREFIX/lib/docker" 2>/dev/null || true
	for f in "${files[@]}"; do rm -f "$DESTDIR$f"; done
	rm -rf "$DESTDIR$PREFIX/lib/wharf/own"
	rmdir "$DESTDIR$PREFIX/lib/wharf" 2>/dev/null || true
	rmdir "$DESTDIR$sharedir/wharf" "$DESTDIR$sharedir/doc/wharf" 2>/dev/null || true
	echo "removed; /var/lib/wharf and /etc/wharf stay"
	exit 0
fi

put() { install -D -m "$1" "$2" "$DESTDIR$3"; }
for b in wharf wharf-compose wharfd wharf-monitor wharf-logger wharf-registry wharf-oci wharf-vmm wharf-guest; do put 755 "bin/$b" "$bindir/$b"; done

# wharf's own kernel for virtual machines, when it was built (make kernel).
if [ -s .cache/kernel/out/vmlinux ]; then
	put 644 .cache/kernel/out/vmlinux "$PREFIX/lib/wharf/own/vmlinux"
	(cd .cache/kernel/out && find modules -type f) | while read -r f; do put 644 ".cache/kernel/out/$f" "$PREFIX/lib/wharf/own/$f"; done
fi

theirs=
for d in /usr/local/lib /usr/local/libexec /usr/lib /usr/libexec; do
	p=$DESTDIR$d/docker/cli-plugins/docker-compose
	[ ! -e "$p" ] || ours "$p" || theirs=$p
done
if [ -n "$theirs" ]; then
	echo "docker compose stays $theirs; wharf compose is ours"
else
	mkdir -p "$DESTDIR$(dirname "$plugin")"
	ln -sf ../../../bin/wharf-compose "$DESTDIR$plugin"
fi

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
sed "s|@BINDIR@|$bindir|; s|@DOCDIR@|$sharedir/doc/wharf|" packaging/systemd/wharfd.service >"$tmp/wharfd.service"
put 644 "$tmp/wharfd.service" "$UNITDIR/wharfd.service"
put 644 packaging/systemd/wharfd.socket "$UNITDIR/wharfd.socket"
put 644 packaging/systemd/wharf.sysusers "$PREFIX/lib/sysusers.d/wharf.conf"

# The small image that works with no network at all.
[ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1 || {
	echo "wharf/base is made of a static busybox: apt-get install busybox-static" >&2
	exit 1
}
CGO_ENABLED=0 "$GO" run ./test/mkimage -o "$tmp/base.tar" -busybox /bin/busybox wharf/base:latest
put 644 "$tmp/base.tar" "$sharedir/wharf/base.tar"

bin/wharf completion bash >"$tmp/bash"
bin/wharf completion zsh >"$tmp/zsh"
bin/wharf completion fish >"$tmp/fish"
put 644 "$tmp/bash" "$sharedir/bash-completion/completions/wharf"
put 644 "$tmp/zsh" "$sharedir/zsh/vendor-completions/_wharf"
put 644 "$tmp/fish" "$sharedir/fish/vendor_completions.d/wharf.fish"
put 644 README.md "$sharedir/doc/wharf/README.md"
put 644 CHANGELOG.md "$sharedir/doc/wharf/CHANGELOG.md"
put 644 LICENSE "$sharedir/doc/wharf/copyright"

if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then
	systemd-sysusers wharf.conf
	systemctl daemon-reload
	echo "installed; start it with: systemctl enable --now wharfd.socket wharfd.service"
else
	echo "installed below ${DESTDIR:-/}"
fi
