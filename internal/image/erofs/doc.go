// Package erofs writes a directory tree as an EROFS image (Linux,
// Documentation/filesystems/erofs.rst): owners, modes, times, devices,
// extended attributes and hard links as they are. go-erofs, the library for
// it, writes each name of a hard link as a file of its own and everything
// through a second copy on disk.
//
// # Layout
//
//	block 0      superblock at byte 1024
//	data         files' blocks, in the order of the walk; long symbolic links
//	metadata     inodes, the root's first (its number has 16 bits), each with
//	             its extended attributes and a short link's target
//	directories  blocks of names, sorted
//
// All inodes are of the 64-byte form, all files flat and uncompressed: a block
// of a guest's file is a block of the image.
package erofs
