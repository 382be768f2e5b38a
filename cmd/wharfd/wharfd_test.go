package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"wharf/internal/config"
	"wharf/internal/host"
	"wharf/internal/undo"
)

func TestListenUnix(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give the socket to a group: run as root")
	}
	path := filepath.Join(t.TempDir(), "sub", "s.sock")
	l, err := listenUnix(path, "0")
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o660 || st.Sys().(*syscall.Stat_t).Gid != 0 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if _, err := listenUnix(path, ""); err == nil || !strings.Contains(err.Error(), "another daemon answers") {
		t.Errorf("second daemon: %v", err)
	}
	// A socket left by a daemon that died.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	l, err = listenUnix(path, "")
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	l.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(path, ""); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("a file in the way: %v", err)
	}
	if _, err := listenUnix(path+"2", "no-such-group"); err == nil || !strings.Contains(err.Error(), "no-such-group") {
		t.Errorf("group: %v", err)
	}
}

func TestClaim(t *testing.T) {
	c := config.Default()
	dir := t.TempDir()
	c.DataRoot, c.ExecRoot, c.Pidfile = dir+"/data", dir+"/run", dir+"/pid"
	var held, other undo.Stack
	if err := (&daemon{cfg: c}).claim(&held); err != nil {
		t.Fatal(err)
	}
	c2 := *c
	c2.ExecRoot = dir + "/run2"
	err := (&daemon{cfg: &c2}).claim(&other)
	if err == nil || !strings.Contains(err.Error(), "another wharfd (process ") || !strings.Contains(err.Error(), dir+"/data") {
		t.Errorf("second claim: %v", err)
	}
	if err := other.Run(); err != nil {
		t.Error(err)
	}
	if err := held.Run(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.Pidfile); !os.IsNotExist(err) {
		t.Errorf("pidfile is left: %v", err)
	}
	for _, d := range []string{c.DataRoot, c.ExecRoot} {
		if st, err := os.Stat(d); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", d, st.Mode(), err)
		}
	}
}

func TestDevices(t *testing.T) {
	got, err := devices("/dev/null")
	if err != nil || len(got) != 1 || got[0].Major != 1 || got[0].Minor != 3 || got[0].Type != "c" || got[0].FileMode.Perm() == 0 {
		t.Errorf("%+v, %v", got, err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/dev/zero", link); err != nil {
		t.Fatal(err)
	}
	if got, err = devices(link); err != nil || got[0].Path != link || got[0].Minor != 5 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err = devices("/dev"); err != nil || len(got) < 5 {
		t.Errorf("%d, %v", len(got), err)
	}
	if _, err = devices("/etc/passwd"); err == nil {
		t.Error("a file is no device")
	}
	if _, err = devices("/nonesuch"); !os.IsNotExist(err) {
		t.Errorf("%v", err)
	}
}

func TestFacts(t *testing.T) {
	c := config.Default()
	h := host.Facts{CPUs: 2, Namespaces: map[string]bool{"user": true, "cgroup": true}, MaxUserNS: 10, DataRoot: host.Storage{OverlayIdmap: true},
		Kernel: host.Kernel{Major: 6, Minor: 1}, Seccomp: []string{"errno"},
		Cgroup: host.Cgroup{Layout: "v2", Controllers: map[string]host.Controller{
			"memory": {Version: 2, Writable: true, Files: []string{"memory.max", "memory.swap.max", "memory.low"}},
			"cpu":    {Version: 2, Writable: true, Files: []string{"cpu.max", "cpu.weight"}},
			"io":     {Version: 2, Writable: true, Files: []string{"io.max"}},
			"pids":   {Version: 2, Writable: true},
		}}}
	f := planFacts(h, c)
	if f.CgroupVersion != 2 || !f.Memory || !f.Swap || !f.MemoryReservation || f.MemorySwappiness || f.OomKillDisable || !f.CPUShares || !f.CPUQuota || f.CPURealtime ||
		f.Cpuset || !f.Pids || !f.Blkio || f.BlkioWeight || !f.UserNS || !f.RORecursive || !f.Seccomp || !f.Devices {
		t.Errorf("v2: %+v", f)
	}
	h.Cgroup = host.Cgroup{Layout: "hybrid", Controllers: map[string]host.Controller{
		"memory": {Version: 1, Writable: true, Files: []string{"memory.limit_in_bytes", "memory.oom_control", "memory.swappiness"}},
		"cpu":    {Version: 1, Writable: true, Files: []string{"cpu.shares", "cpu.cfs_quota_us"}},
		"blkio":  {Version: 1, Writable: true, Files: []string{"blkio.throttle.read_bps_device"}},
	}}
	f = planFacts(h, c)
	if f.CgroupVersion != 1 || !f.Memory || f.Swap || !f.MemorySwappiness || !f.OomKillDisable || !f.CPUShares || !f.CPUQuota || !f.Blkio || f.BlkioWeight || f.Devices {
		t.Errorf("v1: %+v", f)
	}
}

func TestRelease(t *testing.T) {
	defer func(v string) { version = v }(version)
	for in, want := range map[string]string{"dev": "0.0.0-dev", "v1.2.3": "1.2.3", "0.1.0": "0.1.0", "c3597dd-dirty": "0.0.0-c3597dd-dirty", "4dead": "0.0.0-4dead"} {
		version = in
		if got := release(); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestIsStream(t *testing.T) {
	for path, want := range map[string]bool{
		"/v1.50/events": true, "/containers/x/logs": true, "/containers/x/attach": true, "/containers/x/wait": true, "/exec/x/start": true,
		"/containers/x/start": false, "/images/create": false, "/containers/x/stop": false, "/containers/x/archive": false,
	} {
		if isStream(path) != want {
			t.Error(path)
		}
	}
}
