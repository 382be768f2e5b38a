#!/usr/bin/env bash
# `make e2e-vm`: the end-to-end cases of containers once more, every container
# a virtual machine (default-isolation: vm). What differs is skipped with its
# reason and stands in docs/isolation.md. Without KVM half an hour on two idle
# processors.
#
#   test/e2e-vm.sh             all
#   test/e2e-vm.sh short       those of CI, two minutes
#   test/e2e-vm.sh REGEXP      as go test's -run
#
# WHARF_E2E_BOOT_TIME=10m gives machines that time to come up, on a host at a
# load of forty.
set -uo pipefail
cd "$(dirname "$0")/.."
export GO=${GO:-go} CGO_ENABLED=0 WHARF_E2E_ISOLATION=vm
# A kind of everything that a machine does in another way than a container:
# streams, processes beside the first, signals, files, volumes, networks.
short='^(TestRunStreams|TestExec|TestAttach|TestStopAndKill|TestPause|TestDiff|TestCommit|TestRunVolumes|TestUserNetwork)$'
case ${1:-} in
'') only=. ;;
short) only=$short ;;
*) only=$1 ;;
esac
bash test/setup.sh test
mkdir -p .cache/tools
"$GO" build -o .cache/tools/tally ./test/tally || exit 1
bash test/images.sh >/dev/null || exit 1
"$GO" test -json -count=1 -timeout "${LIMIT:-90m}" -parallel "${PARALLEL:-2}" -run "$only" ./test/e2e 2>&1 | .cache/tools/tally ${COUNTS:+-add "$COUNTS"} ${FAILURES:+-failures "$FAILURES"}
