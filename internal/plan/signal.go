package plan

import (
	"syscall"

	"github.com/moby/sys/signal"
)

// Signal reads a signal's name ("SIGTERM", "term", "RTMIN+3") or number.
func Signal(name string) (syscall.Signal, error) {
	s, err := signal.ParseSignal(name)
	if err != nil || s < 1 || s > 64 {
		return 0, invalid("invalid signal: %s", name)
	}
	return s, nil
}

// CheckSignal checks a signal's name or number.
func CheckSignal(name string) error {
	_, err := Signal(name)
	return err
}
