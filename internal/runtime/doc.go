// Package runtime makes one process, or one more process in an existing
// container, from an OCI runtime spec: namespaces, mounts, cgroups, seccomp,
// capabilities, terminals.
//
// It has two halves. internal/runtime/prepare runs where big libraries are
// welcome (wharfd, wharf-oci): it validates the spec, compiles the seccomp
// profile to BPF, computes the cgroup writes and the device program, and
// returns plain data (Prepared, PreparedExec) that is encoded as JSON. This
// package performs: raw system calls, small imports, used by wharf-monitor,
// wharf-oci and wharf-guest.
//
//	prepare.Container(bundle, host)  -> *runtime.Prepared       data
//	runtime.Create(prepared, files)  -> *runtime.Process        init cloned, everything set up, waits
//	process.Start()                  -> error                   execve happened, or why not (*ExecError)
//	prepare.Exec(...)                -> *runtime.PreparedExec   data
//	runtime.Exec(pid, prepared, f)   -> *runtime.Process        joins all namespaces of pid, execs
//	runtime.Main()                                              the init and exec stages: call first in main()
//	runtime.NewNamespaces(...)       -> user, net *os.File      a parked pair, for the network to be attached to
//
// The binary that calls Create and Exec is started again as the stages; it
// calls Main before anything else.
package runtime
