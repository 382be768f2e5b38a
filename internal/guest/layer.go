package guest

import (
	"wharf/api/guestapi"
)

func (a *Agent) upper(c *call) error {
	return failed(guestapi.KindUnimplemented, "upper is not there yet")
}

func (a *Agent) changes(c *call) error {
	return failed(guestapi.KindUnimplemented, "changes is not there yet")
}
