#!/bin/sh
# PostgreSQL as the user postgres. The first start makes the database in the
# volume; later starts find it there.
set -eu
data=${PGDATA:?}
bin=/usr/lib/postgresql/15/bin
if [ "${1:-}" != postgres ]; then exec "$@"; fi
if [ ! -d "$data" ]; then
	echo "db: making a new database in $data"
	# Beside and then renamed: a kill half way leaves nothing that looks whole.
	new=$(dirname "$data")/.new
	rm -rf "$new"
	"$bin/initdb" -D "$new" -U postgres -A scram-sha-256 --pwfile="${DB_PASSWORD_FILE:?}" \
		--encoding=UTF8 --locale=C.UTF-8 --no-instructions >/dev/null
	cat >>"$new/postgresql.conf" <<-CONF
		listen_addresses = '*'
		unix_socket_directories = '$PGHOST'
		jit = off
	CONF
	echo "host all all all scram-sha-256" >>"$new/pg_hba.conf"
	# Only through its socket until it has its user.
	"$bin/pg_ctl" -D "$new" -o "-c listen_addresses=" -w -s start >/dev/null
	PGPASSWORD=$(cat "$DB_PASSWORD_FILE")
	export PGPASSWORD
	psql -q -U postgres -d postgres -v user="$DB_USER" -v name="$DB_NAME" -v password="$PGPASSWORD" <<-'SQL'
		CREATE ROLE :"user" LOGIN PASSWORD :'password';
		CREATE DATABASE :"name" OWNER :"user";
	SQL
	unset PGPASSWORD
	"$bin/pg_ctl" -D "$new" -w -s -m fast stop >/dev/null
	mv "$new" "$data"
fi
shift
exec "$bin/postgres" -D "$data" "$@"
