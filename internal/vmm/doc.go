// Package vmm holds one virtual machine, as package monitor holds one
// container, whose engine it is: QEMU and the virtiofsd processes as children,
// the session with the agent inside, QMP, the console.
//
// # Owns
//
// The processes of one VM, each run by internal/runtime in namespaces of its
// own (QEMU without any capability), their descriptors, the yamux session on
// the agent's virtio-serial port, and the last lines of the console. Log, exit
// file, clients and monitor.sock are package monitor's.
//
// # Never
//
// Trusts the guest: what comes from it is bounded (guestapi's limits), and no
// wait for it is without an end. Decides what QEMU is started with: the driver
// does, in vmmapi.Machine. Opens a disk for somebody: QEMU gets descriptors.
//
// # Invariants
//
// QEMU is gone before the exit is recorded, so that the writable disk has one
// user at most. A machine that does not answer is ended: at boot after
// Machine.BootTime, when its process has ended after Machine.StopTime, at
// SIGKILL after killTime, and when it is silent for silentTime.
//
// # Lock order
//
// None: each mutex is taken alone.
package vmm
