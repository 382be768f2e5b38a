// Package archive moves files in and out of a container's root as tar, for
// Docker's archive endpoints, `cp` and export.
//
// It owns nothing on disk. It never resolves a name from outside in its own
// file system view: every path goes through openat2(2) with RESOLVE_IN_ROOT
// and RESOLVE_NO_MAGICLINKS on the root's descriptor, and everything after
// that happens on descriptors and single names, so that a process inside a
// running container that exchanges directories for symlinks while we copy
// reaches nothing but its own root.
//
// Invariants:
//
//   - Ids in a tar are the container's own. Root.IDs says how the file system
//     shows them: host id = IDs.Host + id. What does not fit is 65534 on the
//     way out and in.
//   - Nothing is read from or written to the kernel's own file systems (proc,
//     sysfs, cgroup, ...) below the name that was asked for.
//   - A stream's memory does not grow with file sizes; it grows with the
//     number of hard-linked files (Get) and of directories (Put).
//   - Close on a reader ends the copying and returns when no descriptor below
//     the root is open any more, so that the root can be unmounted.
//
// There are no locks; a call shares nothing with another.
package archive
