#!/usr/bin/env bash
# `make demo`: a tour of wharf on this machine, in a network and mount namespace
# of its own, with its own data and socket. Leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."
export GO=${GO:-go}

if [ "${1:-}" != --inside ]; then
	[ "$(id -u)" -eq 0 ] || { echo "the demo makes namespaces and mounts: sudo make demo" >&2; exit 1; }
	bash test/setup.sh demo
	make --no-print-directory build
	images=$(bash test/images.sh demo)
	exec unshare --net --mount --propagation private bash test/demo.sh --inside "$images"
fi

images=$2
PATH=$PWD/bin:$PATH
DOCKER=$(command -v docker || echo "$PWD/.cache/peers/docker.io/usr/bin/docker")
dir=$(mktemp -d /var/tmp/wharf-demo-XXXXXX)
parent=wharf-demo-$$
daemon=
export DOCKER_HOST=unix://$dir/wharf.sock DOCKER_CONFIG=$dir/config
ip link set lo up

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' dim=$'\e[2m' off=$'\e[0m'; else bold='' dim='' off=''; fi
title() { printf '\n%s== %s%s\n' "$bold" "$*" "$off"; }
say() { printf '%s%s%s\n' "$dim" "$*" "$off"; }
show() { # prints the command as a person would type it, then runs it
	local words=()
	for w in "$@"; do case $w in *[\ \$\|\;\&]*) words+=("'$w'") ;; *) words+=("$w") ;; esac; done
	printf '%s$ %s%s\n' "$bold" "${words[*]}" "$off"
	case $1 in docker) shift && "$DOCKER" "$@" ;; *) "$@" ;; esac
}

cleanup() {
	local code=$? left
	set +e
	trap - EXIT
	left=$(wharf ps -aq 2>/dev/null)
	[ -z "$left" ] || wharf rm -f -v $left >/dev/null 2>&1
	if [ -n "$daemon" ]; then
		kill "$daemon" 2>/dev/null
		wait "$daemon" 2>/dev/null
	fi
	if [ "$code" != 0 ] && [ -f "$dir/wharfd.log" ]; then
		echo "the demo failed; the end of the daemon's log:" >&2
		tail -n 20 "$dir/wharfd.log" >&2
	fi
	# What must not be there: monitors, mounts, control groups.
	left=$(pgrep -af "wharf-monitor.*$dir" ; grep -F "$dir" /proc/self/mountinfo)
	find /sys/fs/cgroup -maxdepth 3 -depth -type d -path "*/$parent*" -exec rmdir {} \; 2>/dev/null
	left+=$(find /sys/fs/cgroup -maxdepth 3 -type d -path "*/$parent*" 2>/dev/null)
	rm -rf "$dir"
	if [ -n "$left" ]; then printf 'left behind:\n%s\n' "$left" >&2; code=1; fi
	[ "$code" = 0 ] && say "nothing is left behind: no process, mount, link, control group or file"
	exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

title "A daemon of its own"
say "data, socket and network namespace are this demo's; your machine's network is not touched"
wharfd --data-root "$dir/data" --exec-root "$dir/run" -H "$DOCKER_HOST" --pidfile "$dir/pid" \
	--cgroup-parent "$parent" >"$dir/wharfd.log" 2>&1 &
daemon=$!
for _ in $(seq 200); do
	kill -0 "$daemon" 2>/dev/null || exit 1
	wharf version >/dev/null 2>&1 && break
	sleep 0.05
done
show wharf version --format 'wharf {{.Server.Version}}, API {{.Server.APIVersion}}, kernel {{.Server.KernelVersion}}'

title "Images: Debian 12 from mmdebstrap, busybox from Debian's package"
show wharf load -q -i "$images/debian.tar"
show wharf load -q -i "$images/busybox.tar"
show wharf images

title "Run"
show wharf run --rm wharf/base echo hello
show wharf run --rm debian:bookworm sh -c '. /etc/os-release; echo "$PRETTY_NAME, as $(id -un), on $(uname -r)"'

title "Inside root, outside nobody"
show wharf run -d --name demo debian:bookworm sh -c 'n=0; while :; do n=$((n+1)); echo "tick $n"; sleep 0.2; done'
show wharf exec demo id -u
pid=$(wharf inspect -f '{{.State.Pid}}' demo)
show ps -o uid,pid,args -p "$pid"
host_uid=$(ps -o uid= -p "$pid" | tr -d ' ')
[ "$host_uid" -gt 65535 ] || { echo "the process is uid $host_uid on the host" >&2; exit 1; }
say "the container's root is uid $host_uid on this machine: a user of no file and no process here"

title "The stock docker CLI speaks to it too ($("$DOCKER" --version | sed 's/,.*//'))"
show docker ps
sleep 0.5
show docker logs --tail 3 demo
show docker stats --no-stream --format '{{.Name}}: {{.MemUsage}}, {{.PIDs}} processes' demo
show docker stop -t 1 demo
show docker ps -a --format '{{.Names}}: {{.Status}}'

title "How long does a start take?"
times=()
for _ in $(seq 11); do
	t0=$(date +%s%N)
	wharf run --rm wharf/base true
	times+=($(( ($(date +%s%N) - t0) / 100000 )))
done
median=$(printf '%s\n' "${times[@]}" | sort -n | sed -n 6p)
printf 'wharf run --rm wharf/base true: %d.%d ms (median of 11), with network, user namespace, seccomp and log on\n' $((median / 10)) $((median % 10))

title "Your daemon may die; your containers do not"
show wharf run -d --name survivor wharf/base sh -c 'for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 0.15; done; exit 7'
show kill -9 "$daemon"
wait "$daemon" 2>/dev/null || true
sleep 0.4
wharfd --data-root "$dir/data" --exec-root "$dir/run" -H "$DOCKER_HOST" --pidfile "$dir/pid" \
	--cgroup-parent "$parent" >>"$dir/wharfd.log" 2>&1 &
daemon=$!
for _ in $(seq 200); do wharf version >/dev/null 2>&1 && break; sleep 0.05; done
show wharf wait survivor
show wharf logs survivor
[ "$(wharf logs survivor | wc -l)" = 8 ] && [ "$(wharf wait survivor)" = 7 ] || { echo "a line or the exit code was lost" >&2; exit 1; }

title "Clean up"
show wharf rm -f demo survivor
