package network

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	nfnlGroupNftables = 7 // NFNLGRP_NFTABLES: every change to any table
	repairDelay       = 100 * time.Millisecond
)

// watch listens for changes to nftables and repairs the table after them. A
// reload of a firewall is a burst of changes, so it waits a little; it never
// waits longer than that, so the table is back within a second. Idle it costs
// nothing.
func (f *firewall) watch() (stop func() error, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	sock := os.NewFile(uintptr(fd), "nftables events")
	if err := errors.Join(
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, nfnlGroupNftables),
	); err != nil {
		return nil, errors.Join(fmt.Errorf("listen to nftables: %w", err), sock.Close())
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 65536)
		for {
			_, err := sock.Read(buf)
			if err != nil && !errors.Is(err, unix.ENOBUFS) { // lost messages are a change too
				return
			}
			time.Sleep(repairDelay)
			drain(sock, buf)
			f.repair()
		}
	})
	return func() error {
		err := sock.Close()
		wg.Wait()
		return err
	}, nil
}

// drain throws away what arrived meanwhile.
func drain(sock *os.File, buf []byte) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		for {
			if _, _, err := unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT); err != nil && err != unix.ENOBUFS {
				return true
			}
		}
	})
}
