// Package accel decides whether virtual machines run on KVM or are emulated
// (TCG). A /dev/kvm that opens but cannot run a guest exists, nested in some
// hypervisors: the call never returns, or each instruction is interpreted and
// booting a kernel takes hours. So a small guest is run, in real mode and in long
// mode, by a child process that is killed when it has used half a second of a processor.
//
// # Owns
//
// Dir/accel.json: the outcome, for this boot of the machine and this
// /dev/kvm. It is asked again after a reboot, or when the device changes.
//
// # Never
//
// Runs a guest in the daemon's own process, loads kvm modules, or changes
// the device's mode.
package accel
