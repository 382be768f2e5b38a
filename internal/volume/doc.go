// Package volume is the room of volumes: named and anonymous directories that
// outlive containers, with the options of Docker's `local` driver.
//
// # What it owns
//
// The directory Options.Dir:
//
//	<name>/opts.json  driver, options, labels, time of creation
//	<name>/_data      the content, or what a volume with options is mounted on
//	<name>/_data/disk with type=block: a sparse file with an ext4
//	<name>/copying    there while the image's content is copied up
//	<name>/sub/<n>    mount points of subpaths in use
//	<name>/snapshots/<snapshot>/_data, snapshot.json
//	.trash-<id>/      removed volumes as they were, and trashed.json
//	.new-*            volumes and snapshots in the making
//	.gone-*           what is still being deleted
//	.paused-*         containers that stand still for a copy
//
// It never shifts ids: on the disk the owners are those that the container's
// own ids say, and the mount is idmapped by whoever makes it.
//
// # Invariants
//
//   - A volume is in use from the first Use of a container until its Unuse,
//     which is the container's life from create to remove. Who uses what is
//     known in memory and comes back by Restore.
//   - A volume with options is mounted at the first Use and unmounted at the
//     last Unuse. A mount left by an earlier daemon is taken over.
//   - Removing a volume renames it into the trash, so that it is gone at once
//     and as a whole. What is there too long is for others to Purge. Deletion
//     goes on behind.
//   - A volume with type=block is a disk: its file system is written by virtual
//     machines and never mounted here. One machine has it from Disk until
//     GiveDisks; QEMU has a lock (flock) on the file as long as it runs.
//   - Whatever copies data makes them aside (a draft) and renames them into
//     place: as a whole or not at all. Open deletes drafts that a crash left.
//   - A copy holds its volume as a user of a name that no container has.
//
// # Lock order
//
// vol.busy, then Room.mu, then Room.projects. Under Room.mu nothing is mounted,
// copied or deleted; a new volume's record is written under it.
package volume
