#!/bin/sh
# Redis with its password from a secret, so that it is on no command line.
set -eu
if [ "${1:-}" != redis-server ]; then exec "$@"; fi
shift
exec redis-server - "$@" <<CONF
bind * -::*
dir /data
appendonly yes
requirepass $(cat "${CACHE_PASSWORD_FILE:?}")
CONF
