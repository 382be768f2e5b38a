// Package plan decides: request + image + facts of the machine -> what shall
// be. It is pure: no file, socket, clock or environment is touched; what it
// cannot know it is told (Facts, Defaults, CreateInput, StartInput), and what
// it has to ask it asks through the functions of Lookup, which its caller
// gives it. A bad request ends here, with an error of an errdefs kind, before
// anything was done.
//
//	Create   request, image      -> model.Container      what was asked, every default decided
//	Start    container, rootfs   -> *model.Bundle         the OCI runtime spec
//	Exec     container, request  -> *model.ExecSpec       a further process
//	Update   container, limits   -> model.Container       live limits
//	Files    container, endpoints -> hosts, hostname, resolv.conf
//
// internal/plan/changes holds Dockerfile instructions for commit and import.
//
// Invariants: an option is honoured, refused or warned about, never dropped;
// the same input gives the same output, byte for byte (golden files); inputs
// are never changed.
package plan
