package runtime_test

import (
	"os"
	"syscall"
)

func owner(st os.FileInfo) uint32 { return st.Sys().(*syscall.Stat_t).Uid }
