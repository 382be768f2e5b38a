// Package lifecycle acts: it creates, starts, ends, removes and recovers
// containers, and answers what is asked about them. It owns the table of
// containers (index), each container's verb lock and present record, the
// ranges of host ids, exec processes, restart timers and health checks, and
// <data root>/containers/<id>/ with hosts, hostname and resolv.conf (the log
// there is the logs room's). It never touches a namespace, mount, cgroup,
// link or image itself: rooms and drivers do (rooms.go, internal/driver), and
// internal/plan decides.
//
// # Lists of steps
//
// Create and start are lists of named steps with do and release (steps.go).
// A failed do, an exit, a removal and recovery after a crash walk the same
// list backwards. Release is keyed by the container and succeeds when nothing
// is held.
//
// # Invariants
//
//   - The record is the truth. It is written before the client hears of a
//     change, so what was acknowledged survives kill -9. An exit is written
//     before anything is released, so that its code is never lost.
//   - Records are immutable values: entry.rec is replaced, never changed, so
//     that list and inspect take no lock and wait for nobody.
//   - One verb at a time changes a container: it holds entry.verb, which
//     core.begin takes in one place; there the work is also cut off from the
//     client that asked for it, and gets a deadline of its own.
//   - What a room holds for an id without a record is released (recover.go).
//
// # Disk
//
// fsync per container's life: one at create (none with --rm), none at start
// and exit, one at rename and update. Writes of the record: create 1 (2 with
// anonymous volumes), start 1, exit 1, removal 2 (1 after an exit with --rm).
//
// A removed container goes to the trash (trash.go): its layer and directory
// stay, its record moves to another table with the last write of the removal.
//
// # Lock order
//
// entry.verb, then entry.freeze, then entry.mu, then a room's own. index.mu and idRanges.mu are
// leaves. Two containers' verb locks are never held at once. Rooms never call
// up.
package lifecycle
