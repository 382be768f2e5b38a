#!/usr/bin/env bash
# `make example`: the Compose project in examples/shop from first `up` to last
# `down`, with a daemon, network and mount namespace of its own. Leaves nothing
# behind.
#
#   test/example.sh [CLIENT...]       the client; `wharf compose` without
#   COMPOSE_PLUGIN=/path/docker-compose test/example.sh docker compose
#   test/example.sh docker-compose
#   VM=1 test/example.sh [CLIENT...]     its database in a virtual machine
set -euo pipefail
cd "$(dirname "$0")/.."
export GO=${GO:-go}

if [ "${1:-}" != --inside ]; then
	[ "$(id -u)" -eq 0 ] || { echo "the example makes namespaces and mounts: sudo make example" >&2; exit 1; }
	bash test/setup.sh demo
	[ -n "${WHARF_BIN:-}" ] || make --no-print-directory build
	images=$(bash test/images.sh example)
	exec unshare --net --mount --propagation private bash test/example.sh --inside "$images" "$@"
fi

images=$2
shift 2
client=("$@")
[ $# -gt 0 ] || client=(wharf compose)
bin=${WHARF_BIN:-$PWD/bin}
PATH=$bin:$PATH
dir=$(mktemp -d /var/tmp/wharf-example-XXXXXX)
parent=wharf-example-$$
daemon=
export DOCKER_HOST=unix://$dir/wharf.sock DOCKER_CONFIG=$dir/config
mkdir -p "$DOCKER_CONFIG/cli-plugins"
[ -z "${COMPOSE_PLUGIN:-}" ] || ln -s "$COMPOSE_PLUGIN" "$DOCKER_CONFIG/cli-plugins/docker-compose"
ip link set lo up
# A copy: what is tried here changes nothing in the checkout.
cp -r examples/shop "$dir/shop"
cd "$dir/shop"
[ -z "${VM:-}" ] || export COMPOSE_FILE=compose.yaml:compose.vm.yaml
if [ "${client[*]}" = docker-compose ]; then # 1.29 knows neither these words nor configs without swarm, nor an API newer than this
	export COMPOSE_API_VERSION=1.44
	sed -i '/^name:/d; s/, pids: 64//; /start_interval/d; s/, restart: true//
		s|^    configs:|    volumes:|; s|- {source: nginx, .*|- ./front/nginx.conf:/etc/nginx/nginx.conf:ro|' compose.yaml
fi

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' dim=$'\e[2m' off=$'\e[0m'; else bold='' dim='' off=''; fi
title() { printf '\n%s== %s%s\n' "$bold" "$*" "$off"; }
say() { printf '%s%s%s\n' "$dim" "$*" "$off"; }
fail() { echo "example: $*" >&2; exit 1; }
show() { # prints the command as a person would type it, then runs it
	local words=()
	for w in "$@"; do case $w in *[\ \$\|\;\&\{\}\"]*) words+=("'$w'") ;; *) words+=("$w") ;; esac; done
	printf '%s$ %s%s\n' "$bold" "${words[*]}" "$off"
	"$@"
}
vars=() # of the project, as a person would write them before the command
export COMPOSE_PROGRESS=quiet
dc() {
	printf '%s$ %s%s\n' "$bold" "${vars[*]}${vars:+ }${client[*]} $*" "$off"
	env "${vars[@]}" "${client[@]}" "$@" 2>&1 | sed '/^ *$/d'
	return "${PIPESTATUS[0]}"
}
quiet() { env "${vars[@]}" "${client[@]}" "$@" 2>/dev/null; }
# A machine is emulated where there is no KVM.
tries=100 patience=10
[ -z "${VM:-}" ] || tries=1200 patience=60
curl() { command curl -sS --max-time "$patience" "$@"; }
id() { quiet ps -q "$1" | sed -n 1p; }

start_daemon() {
	wharfd --data-root "$dir/data" --exec-root "$dir/run" -H "$DOCKER_HOST" --pidfile "$dir/pid" \
		--cgroup-parent "$parent" >>"$dir/wharfd.log" 2>&1 &
	daemon=$!
	for _ in $(seq 200); do
		kill -0 "$daemon" 2>/dev/null || fail "wharfd ended"
		wharf version >/dev/null 2>&1 && return
		sleep 0.05
	done
	fail "wharfd does not answer"
}

cleanup() {
	local code=$? left
	set +e
	trap - EXIT
	if [ "$code" != 0 ] && [ -f "$dir/wharfd.log" ]; then
		echo "the example failed; the end of the daemon's log:" >&2
		tail -n 20 "$dir/wharfd.log" >&2
		for left in $(wharf ps -aq --filter status=exited); do
			wharf ps -a --filter "id=$left" --format '-- {{.Names}}: {{.Status}}'
			wharf logs --tail 5 "$left"
		done >&2
	fi
	left=$(wharf ps -aq 2>/dev/null)
	[ -z "$left" ] || wharf rm -f -v $left >/dev/null 2>&1
	if [ -n "$daemon" ]; then
		kill "$daemon" 2>/dev/null
		wait "$daemon" 2>/dev/null
	fi
	cd /
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

title "A daemon of its own, the images of Debian's packages"
start_daemon
show wharf load -q -i "$images/shop.tar"
dc version

title "The project in examples/shop"
dc config --services
show sed -n '/^  api:/,/^  #/p' compose.yaml

title "Up: database and cache, then the migration to its end, then the service, then nginx"
t0=$(date +%s%N)
case ${client[*]} in
docker-compose) dc up -d ;; # 1.29 waits for health checks by itself, but has no --wait
*) dc up -d --wait ;;
esac
say "took $((($(date +%s%N) - t0) / 1000000)) ms"
dc ps -a
for _ in $(seq "$tries"); do curl localhost:8080/front-health 2>/dev/null | grep -q ok && break; sleep 0.1; done

title "It answers"
show curl localhost:8080/items
show curl -X POST -d '{"name": "buoy", "cents": 900}' localhost:8080/items
curl localhost:8080/items | jq -e 'length == 3' >/dev/null || fail "the new item is not there"

title "Each as its own user, and that one nobody's on this machine"
dc exec -T db id
pid=$(wharf inspect -f '{{.State.Pid}}' "$(id db)")
show ps -o uid,pid,args -p "$pid"
[ "$(ps -o uid= -p "$pid")" -gt 65535 ] || fail "PostgreSQL has a user of the host's"

title "The network behind has no way out, and nothing of the front sees it"
if quiet exec -T front bash -c 'exec 3<>/dev/tcp/db/5432' >/dev/null; then fail "front reaches db"; fi
say "front cannot even resolve db"
show wharf network inspect -f '{{.Name}}: internal {{.Internal}}' shop_front shop_back

title "Three of the service: nginx takes them in turn"
vars+=(API_COPIES=3)
dc up -d
for _ in $(seq "$tries"); do
	wharf ps --filter label=com.docker.compose.service=api --format '{{.Status}}' | grep -c '(healthy)' | grep -qx 3 && break
	sleep 0.1
done
sleep 1.2 # nginx asks for names again each second
for _ in 1 2 3 4 5 6; do curl localhost:8080/; done | tee "$dir/answers"
[ "$(jq -r .host "$dir/answers" | sort -u | wc -l)" = 3 ] || fail "not all three answer"

title "One-off jobs"
dc run --rm -T api seed 5 || fail "seed"
[ "${client[*]}" = docker-compose ] || dc run --rm -T psql -c 'select count(*) from items'

title "A new version: only what has the new image is made again, the data stays"
before="$(id db) $(id cache) $(id front)"
old=$(id api)
vars+=(API_TAG=2)
dc up -d
[ "$before" = "$(id db) $(id cache) $(id front)" ] || fail "something else was made again"
[ "$old" != "$(id api)" ] || fail "the service was not made again"
for _ in $(seq "$tries"); do curl localhost:8080/ 2>/dev/null | grep -q '"version":"2"' && break; sleep 0.1; done
show curl localhost:8080/
curl localhost:8080/items | jq -e 'length == 8' >/dev/null || fail "goods are missing"

title "logs -f, top"
(sleep 0.6; for _ in 1 2 3; do curl localhost:8080/ >/dev/null; done) &
printf '%s$ %s%s\n' "$bold" "${client[*]} logs -f --tail 0 api" "$off"
timeout -s INT 2 env "${vars[@]}" "${client[@]}" logs -f --tail 0 api || true
wait %?curl 2>/dev/null || true
dc top db | head -n 6

title "The daemon may die: the shop goes on"
address=$(wharf inspect -f '{{(index .NetworkSettings.Networks "shop_front").IPAddress}}' "$(id api)")
show kill -9 "$daemon"
wait "$daemon" 2>/dev/null || true
curl "$address:8080/items" | jq -e 'length == 8' >/dev/null || fail "the service does not answer while the daemon is dead"
say "eight goods are on sale with no daemon running (names are answered again when it is back)"
start_daemon
dc ps
curl localhost:8080/items | jq -e 'length == 8' >/dev/null || fail "nginx does not find the service again"

title "Down and up again: the data is there"
dc down
say "volumes: $(wharf volume ls -q | tr '\n' ' ')"
vars=(API_TAG=2)
case ${client[*]} in docker-compose) dc up -d ;; *) dc up -d --wait ;; esac
for _ in $(seq "$tries"); do curl localhost:8080/items 2>/dev/null | jq -e 'length == 8' >/dev/null 2>&1 && break; sleep 0.1; done
curl localhost:8080/items | jq -e 'length == 8' >/dev/null || fail "goods are missing"
say "eight goods, as before"

title "Down, with everything"
dc down -v
[ -z "$(wharf ps -aq)$(wharf volume ls -q)" ] || fail "left: $(wharf ps -a; wharf volume ls)"
