// Package boot makes what a microVM boots: the kernel as an uncompressed
// vmlinux, an initramfs that holds the agent and the kernel's modules, and the
// kernel's command line.
//
// # Owns
//
//	Dir/<digest>/vmlinux    the ELF image taken out of the distribution's bzImage
//	Dir/<digest>/initrd     cpio newc: /init (wharf-guest), modules, their list
//
// The digest is over the names, sizes and times of everything that they are
// made from. A directory is made whole under another name and renamed, so
// what has a digest for its name is complete. The two newest are kept.
//
// # Which kernel
//
// The configured one; else wharf's own ("make kernel"), else the newest
// /boot/vmlinuz-*-cloud-amd64 (Debian's linux-image-cloud-amd64), else one that
// lies unpacked below OwnRoot, else the newest kernel in /boot that has modules.
// A vmlinux (ELF) is taken as it is.
//
// # Never
//
// Runs anything, loads modules on the host, or needs the host's kernel to be
// the guest's.
package boot
