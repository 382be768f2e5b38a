// Package image is the room of images: content, unpacked layers, names, and
// the writable layers of containers. It stands on containerd's libraries in
// this process (content store, metadata database, overlay snapshotter, remotes);
// there is no containerd daemon.
//
// It owns everything below Options.Root and nothing else:
//
//	content/            blobs and half-finished ingests (containerd's content store)
//	meta.db             names, labels, leases (containerd's metadata, bolt)
//	meta.db.point       where its last whole state begins (ledger.go); layers/metadata.db has one too
//	layers/             unpacked layers (containerd's overlay snapshotter)
//	disks/              EROFS images of chains, for instances with a kernel of their own
//	containers/<id>/    one per prepared container: upper, work (disk: see erofs.go), and base, a
//	                    symbolic link whose text is "<manifest digest>/<chain id>",
//	                    and pin-<n>, such links for images that it mounts
//	mounts/             where stopped containers are mounted for copies
//	trash/              writable layers on their way out
//	empty/              the lower directory of an image without layers
//	base                exists when wharf/base was installed once
//
// # Invariants
//
// An image's id is the digest of its index or manifest. A name in meta.db is a
// canonical reference (docker.io/library/busybox:latest, or repo@digest); an
// image whose last tag went to another is kept under the name
// "moby-dangling@<digest>", as Docker does.
//
// A blob enters the content store only when its digest is right; a layer
// becomes a snapshot only when the digest of its uncompressed tar is the diff
// id in the image's configuration. Layers are unpacked side by side into
// directories without a parent and linked into their chain afterwards. A layer's
// files are on the disk (syncfs(2), sync.go) before it is recorded.
//
// Commits of the tables do not wait for the disk; what a name, a container or a
// removed file stands on does (docs/decisions/points.md).
//
// A container's writable layer costs no database write. That its image may not
// be collected follows from the links in containers/<id>, which the garbage
// collector reads as roots. Prepare and the collector's mark-to-sweep
// exclude each other through gc.mu.
//
// Whatever an operation makes hangs on a lease until a name refers to it; the
// leases of a dead daemon are dropped by Open, which also unmounts and removes
// what a crash left.
//
// # Never
//
// It never rewrites a layer, never trusts a name in an archive, never shifts
// owners (containers are idmapped), never calls up into lifecycle: it asks
// Options.Users instead.
//
// # Lock order
//
// Store.names (changes of names), then the metadata database's own locks, then
// gc.mu, then Store.mu (caches), mounts.mu or
// ledger.mu (the metadata's, then the layers'), which are last. No lock is held while a layer is
// unpacked or a registry is asked.
package image
