// Package registry is an image registry in one process: distribution's
// handlers over a directory, with what they lack (the referrers list of the
// distribution specification 1.1, content under digests other than sha256,
// garbage collection beside running uploads).
//
// It owns the directory Options.Root and nothing else:
//
//	docker/registry/v2/   blobs, repositories, uploads (distribution's layout; other registries of its kind read it)
//	referrers/            <repository>/_subjects/<alg>/<hex>/<alg>-<hex>: descriptors of the manifests that name a subject
//	lock                  flock(2): held by who serves or collects
//	control.sock          where the serving process takes `gc`
//
// # Never
//
// It is no part of wharfd: its libraries are large and it faces a network. It
// listens nowhere but where it was told, and refuses to listen beyond loopback
// without TLS and users unless that was asked for in words.
//
// # Invariants
//
// A blob that a manifest names is not collected, and none that is younger than
// GCOptions.Grace: it may belong to a push whose manifest is still to come.
// The list of referrers follows the manifests: an entry whose manifest is gone
// is not shown, and the next collection removes it.
//
// # Lock order
//
// Server.writes: requests that write hold it shared, the collector alone.
package registry
