package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"wharf/api/guestapi"
	"wharf/api/monitorapi"
	"wharf/internal/driver"
	"wharf/internal/model"
	"wharf/internal/vmm/vmmapi"
)

var _ driver.Plugger = (*instance)(nil)

// devicesName is a file in the instance's directory: what each network device
// is connected to.
const devicesName = "devices.json"

// device is one network device of a running machine.
type device struct {
	MAC  string `json:"mac"`            // as QEMU made it
	Link string `json:"link,omitempty"` // the tap; "" is none
	// Direct: it was made with its tap. Taken away from that it is of no more
	// use until the next start.
	Direct bool `json:"direct,omitempty"`
	Gone   bool `json:"gone,omitempty"`
}

// devices reads what the devices are connected to: what was noted, or else
// what the start made.
func (i *instance) devices() ([]device, error) {
	b, err := i.Bundle()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(i.Dir(), devicesName))
	if errors.Is(err, fs.ErrNotExist) {
		var out []device
		for n, t := range taps(b) {
			// The first one has a tap of its own kind when it has no network's.
			out = append(out, device{MAC: deviceMAC(n), Link: t.link, Direct: t.link != "", Gone: n == 0 && t.link == ""})
		}
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	var out []device
	return out, json.Unmarshal(text, &out)
}

func (i *instance) keepDevices(d []device) error { return keepDevices(i.Dir(), d) }

func keepDevices(dir string, d []device) error {
	text, err := json.Marshal(d)
	if err != nil {
		return err
	}
	at := filepath.Join(dir, devicesName)
	if err := os.WriteFile(at+".tmp", text, 0o600); err != nil {
		return err
	}
	return os.Rename(at+".tmp", at)
}

func (i *instance) plug(ctx context.Context, p vmmapi.Plug) error {
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return i.Call(ctx, monitorapi.Request{Op: vmmapi.OpPlug, Body: body})
}

// Plug connects a spare device to ep's tap and has the guest configure all.
func (i *instance) Plug(ctx context.Context, all []model.Endpoint, ep model.Endpoint) error {
	d, err := i.devices()
	if err != nil {
		return err
	}
	n := 0
	for n < len(d) && (d[n].Link != "" || d[n].Gone) {
		n++
	}
	if n == len(d) {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("the virtual machine has no network device left (it has %d): stop the container, connect it, and start it", len(d)))
	}
	if err := i.plug(ctx, vmmapi.Plug{Device: n, Tap: ep.HostLink}); err != nil {
		return err
	}
	d[n].Link = ep.HostLink
	if err := i.keepDevices(d); err != nil {
		return err
	}
	return i.configure(ctx, all, ep.HostLink, d[n].MAC)
}

// Unplug takes ep's interface down and its tap away.
func (i *instance) Unplug(ctx context.Context, all []model.Endpoint, ep model.Endpoint) error {
	d, err := i.devices()
	if err != nil {
		return err
	}
	for n := range d {
		if d[n].Link != ep.HostLink {
			continue
		}
		_, err := i.ask(ctx, guestapi.Request{Op: guestapi.OpUnlink, Interface: &guestapi.Interface{MAC: ep.Settings.MacAddress.String()}})
		if err != nil {
			return err
		}
		if err := i.plug(ctx, vmmapi.Plug{Device: n, Tap: ep.HostLink, Out: true, Direct: d[n].Direct}); err != nil {
			return err
		}
		// The guest's driver keeps the address that it was given.
		d[n].Link, d[n].Gone, d[n].MAC = "", d[n].Direct, ep.Settings.MacAddress.String()
		if err := i.keepDevices(d); err != nil {
			return err
		}
	}
	return i.configure(ctx, all, "", "")
}

// configure tells the guest of all its interfaces: the default route may be
// another one now. The one with the tap link is found by its device's address.
func (i *instance) configure(ctx context.Context, all []model.Endpoint, link, mac string) error {
	xs, err := interfaces(all)
	if err != nil {
		return err
	}
	n := 0
	for _, ep := range all {
		if !ep.Tap {
			continue
		}
		x := xs[n]
		n++
		if ep.HostLink == link {
			x.Device = mac
		}
		if _, err := i.ask(ctx, guestapi.Request{Op: guestapi.OpLink, Interface: &x}); err != nil {
			return err
		}
	}
	return nil
}
