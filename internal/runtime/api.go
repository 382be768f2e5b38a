package runtime

import (
	"os"
)

// Files are the descriptors that a process starts with. They stay the
// caller's; Create and Exec do not close them.
type Files struct {
	// Stdin, Stdout and Stderr of the process; nil is /dev/null. Not used
	// when Terminal was asked for.
	Stdin, Stdout, Stderr *os.File

	// User and Net are namespaces to join instead of new ones (Create only),
	// as NewNamespaces makes them. They win over the paths in the spec.
	User, Net *os.File

	// Extra become descriptors 3, 4, ... of the process.
	Extra []*os.File

	// Fifo, when set, takes the place of Process.Start: the stage opens it
	// for writing before execve, which blocks until somebody reads it.
	Fifo *os.File
}

// ExecError is a failure that the image or the request is to blame for. Code
// is what a shell would return: 126 cannot be executed, 127 not found, 128
// other (unknown user, working directory).
type ExecError struct {
	Code int
	Msg  string
}

func (e *ExecError) Error() string { return e.Msg }
