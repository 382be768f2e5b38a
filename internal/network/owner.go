package network

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/moby/api/types/network"
)

// socketOwner says, for a person, which process of the host has a port. It
// reads all of /proc and is only for errors.
func socketOwner(proto network.IPProtocol, host netip.AddrPort) string {
	inode := socketInode(proto, host)
	if inode == "" {
		return "by another program; see ss -lntup"
	}
	want := "socket:[" + inode + "]"
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		if l, err := os.Readlink(fd); err == nil && l == want {
			pid := strings.Split(fd, "/")[2]
			comm, _ := os.ReadFile("/proc/" + pid + "/comm")
			return fmt.Sprintf("by process %s, %s", pid, strings.TrimSpace(string(comm)))
		}
	}
	return "by another program; see ss -lntup"
}

// socketInode finds a bound socket in the kernel's tables.
func socketInode(proto network.IPProtocol, host netip.AddrPort) string {
	for _, file := range []string{string(proto), string(proto) + "6"} {
		f, err := os.Open("/proc/thread-self/net/" + file)
		if err != nil {
			continue
		}
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			w := strings.Fields(s.Text())
			if len(w) < 10 {
				continue
			}
			_, port, _ := strings.Cut(w[1], ":")
			_, peer, _ := strings.Cut(w[2], ":")
			if port == fmt.Sprintf("%04X", host.Port()) && peer == "0000" {
				return w[9]
			}
		}
	}
	return ""
}
