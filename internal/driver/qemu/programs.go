package qemu

// What to do when a program is missing.
const (
	qemuRemedy      = "apt-get install qemu-system-x86, or set vm-qemu in daemon.json"
	virtiofsdRemedy = "apt-get install qemu-system-common, or set vm-virtiofsd in daemon.json"
)

// QEMU finds the emulator: the configured one, or where distributions have it.
func QEMU(configured string) (string, error) { return find(configured, qemuPlaces, qemuRemedy) }

// Virtiofsd finds the server of shared directories, likewise.
func Virtiofsd(configured string) (string, error) {
	return find(configured, virtiofsdPlaces, virtiofsdRemedy)
}
