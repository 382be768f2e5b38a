#!/usr/bin/env bash
# `make bench`: measures wharf beside Debian's docker.io, podman, crun and runc
# and writes docs/performance.md. Arguments go to the program: test/bench.sh -quick
set -euo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}
export CGO_ENABLED=0
[ "$(id -u)" -eq 0 ] || { echo "the bench starts daemons: sudo make bench" >&2; exit 1; }
bash test/setup.sh bench
images=$(bash test/images.sh)
mkdir -p .cache/tools
"$GO" build -trimpath -ldflags '-s -w' -o .cache/tools/ ./test/bench ./test/bench/floor
# dockerd starts containerd, runc and friends by name.
for d in .cache/peers/*/usr/sbin .cache/peers/*/usr/bin; do [ -d "$d" ] && PATH=$PATH:$PWD/$d; done
export PATH
# docker.io's docker-init is a link to tini-static beside it, which is not unpacked where it is installed.
init=.cache/peers/docker.io/usr/bin
[ ! -d "$init" ] || [ -e "$init/docker-init" ] || ln -sf "$(command -v tini-static)" "$init/tini-static"
set -- -bin bin -images "$images" -floor .cache/tools/floor "$@"
case " $* " in *" -quick "* | *" -only "* | *" -o "*) ;; *) set -- "$@" -o docs/performance.md ;; esac
exec .cache/tools/bench "$@"
