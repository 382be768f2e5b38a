// Package build is the room of builds: BuildKit's solver in this process, on
// the image room's content, snapshots and leases, with an executor that runs
// each step as the containers of `run` are run.
//
// It owns everything below Options.Root (cache.db, history.db, metadata.db,
// workerid, unsettled) and, in the image room's database, the leases and snapshots that
// BuildKit makes: it lets go of them by its own collection (Prune).
//
// # Doors
//
//	Session, GRPC     BuildKit's own protocol: docker build, buildx, compose, wharf build
//	Classic           POST /build: a tar with a Dockerfile, answered by the same solver
//
// # Invariants
//
// BuildKit is set up by the first build, not by the daemon's start: an engine
// that builds nothing pays nothing. Dockerfiles are read by the built-in
// frontend, also where a "# syntax=" line names docker/dockerfile. Images that
// are here already are not looked for at a registry.
//
// The tables do not wait for the disk; the file unsettled tells from a power cut
// on that they are not to be trusted (unsettled.go). What was built is handed
// to the image room as it lies (adopt.go), and its layers are BuildKit's
// (layernames.go).
//
// A step's process, its networks and its ids are lifecycle's (Options.Steps);
// what a dead daemon left of them is swept as everything without a record.
// What its half-built layers hold hangs on leases marked as temporary, dropped
// at the next start.
//
// # Never
//
// It never mounts what a step wrote on the host, other than BuildKit's own
// copies do (below TMPDIR, in the daemon's mount namespace), and never runs a
// process but by Options.Steps.
package build
