package vmm

import (
	"encoding/json"
	"strings"
	"time"

	"wharf/api/guestapi"
	"wharf/api/monitorapi"
)

// exitOf reads what the guest says of a process's end. The time is ours: the
// guest's clock is the guest's.
func exitOf(b []byte) monitorapi.Exit {
	now := time.Now().UTC()
	var g guestapi.Exit
	if err := json.Unmarshal(b, &g); err != nil {
		return monitorapi.Exit{Code: 255, At: now, Error: "the exit code is not known: " + err.Error()}
	}
	e := monitorapi.Exit{Code: g.Code, At: now, OOMKilled: g.OOMKilled, Error: printable(g.Error, 2000)}
	if e.Code < 0 || e.Code > 255 {
		e.Code = 255
	}
	if g.Signal > 0 && g.Signal <= 64 {
		e.Signal = g.Signal
	}
	return e
}

// printable cuts a text that came from a guest.
func printable(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r >= ' ' && r != 0x7f {
			return r
		}
		return ' '
	}, s)
	if len(s) > most {
		s = s[:most] + "..."
	}
	return s
}
