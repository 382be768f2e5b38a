// Package guest is the agent in a microVM: process 1 of the machine. It loads
// the kernel's modules, mounts the kernel's file systems, answers the host's
// requests on one virtio-serial port (see api/guestapi), makes the machine an
// instance's when it is told to, and starts processes with internal/runtime
// from data that the host prepared.
//
// # Owns
//
// The machine: everything below guestapi.RunDir, the cgroup tree, the
// interfaces, every process that is nobody else's. There is no other agent
// and nothing that outlives it.
//
// # Never
//
// Exits: the kernel would panic. What cannot go on is written to the console
// and the machine is powered off. Decides anything: restart, limits, names
// and addresses come from the host. Trusts the container: its files are opened
// through internal/archive, its /proc is never used.
//
// # Invariants
//
// The host is trusted, the channel is not assumed to be clean: what cannot be
// a frame ends the session, and a new Hello begins the next one. A session that is
// lost leaves the processes running; their output is read to nowhere.
//
// A process's output waits for the host as for a full pipe. The exit is told
// after the output that was written before it.
//
// # Lock order
//
// Agent.net over changes of the network, and Agent.mu, each alone. Nothing is
// done under mu but looking up and setting.
package guest
