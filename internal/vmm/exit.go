package vmm

import (
	"encoding/json"
	"time"

	"wharf/api/frame"
	"wharf/api/guestapi"
	"wharf/api/monitorapi"
)

// exitOf reads what the guest says of a process's end. The time is ours: the
// guest's clock is the guest's.
func exitOf(b []byte) monitorapi.Exit {
	now := time.Now().UTC()
	var g guestapi.Exit
	if err := json.Unmarshal(b, &g); err != nil {
		return monitorapi.Exit{Code: 255, At: now, Error: "the exit code is not known: " + frame.Printable(err.Error(), 500)}
	}
	e := monitorapi.Exit{Code: g.Code, At: now, OOMKilled: g.OOMKilled, Error: frame.Printable(g.Error, 2000)}
	if e.Code < 0 || e.Code > 255 {
		e.Code = 255
	}
	if g.Signal > 0 && g.Signal <= 64 {
		e.Signal = g.Signal
	}
	return e
}
