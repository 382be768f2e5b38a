// Package dockerapi is the door: Docker's Engine API over HTTP. It decodes a
// request, calls one room, encodes the answer. It decides nothing about
// containers and keeps no state.
//
// It owns: the routes, API versions (the oldest and newest that are spoken,
// and how answers looked in older ones), the JSON and stream formats, hijacked
// connections, and the one table that turns errdefs kinds into status codes
// (errors.go).
//
// It never: touches a file, a process or the kernel, retries, or logs what an
// answer already says. Secrets (X-Registry-Auth, request bodies) are not
// logged.
//
// Invariants:
//   - What is not there answers 501 and names the thing; a room that is nil in
//     Options answers 501 for all its endpoints.
//   - A JSON body is at most 4 MiB and has 30 seconds to arrive. Archives and
//     streams are unbounded here; the rooms bound them.
//   - A client that goes away ends its own request only. A hijacked connection
//     ends when the process closes its output, when the client is gone in both
//     directions, or when a detach sequence is typed; then no goroutine is left.
//   - A failure after the answer has begun is put into the stream where the
//     format has words for it (progress), else the connection is cut so that
//     the client cannot take half for whole.
//
// Routes are not net/http patterns because image names contain slashes and
// stand in the middle of the path.
package dockerapi
