package main

import (
	"golang.org/x/sys/unix"

	"wharf/internal/config"
	"wharf/internal/image"
	"wharf/internal/lifecycle"
)

// trashBounds turns the configuration's words into bytes of this machine's
// disk.
func trashBounds(c *config.Config) lifecycle.TrashBounds {
	var disk int64
	var st unix.Statfs_t
	if unix.Statfs(c.DataRoot, &st) == nil {
		disk = int64(st.Blocks) * st.Bsize
	}
	age, _ := c.TrashAge() // checked when it was read
	limit, free, _ := c.TrashSizes(disk)
	return lifecycle.TrashBounds{MaxAge: age, MaxSize: limit, MaxCount: c.TrashMaxCount, MinFree: free}
}

// autoRemoval is when images go by themselves.
func autoRemoval(c *config.Config) image.AutoRemoval {
	age, _ := c.ImageAge() // checked when it was read
	return image.AutoRemoval{Age: age, Mark: c.ImageMark}
}

// trashed is told that a volume came into the trash; the engine bounds it.
func (r *rooms) trashed() {
	if e := r.nudged.Load(); e != nil {
		e.NudgeTrash()
	}
}
