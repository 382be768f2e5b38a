package main

import (
	"slices"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// cdiDevices are the devices that specifications in dirs name. The files are
// read when somebody asks, each time anew: nobody asks often, and what a
// driver's installation changes counts at once.
type cdiDevices struct {
	dirs []string

	mu    sync.Mutex // guards cache, and keeps a refresh and an injection together
	cache *cdi.Cache
}

// open reads the files. Call with mu held.
func (d *cdiDevices) open() (*cdi.Cache, error) {
	if d.cache == nil {
		c, err := cdi.NewCache(cdi.WithSpecDirs(d.dirs...), cdi.WithAutoRefresh(false))
		if err != nil {
			return nil, err
		}
		d.cache = c
		return c, nil
	}
	// Its error is about files that cannot be read; the others count.
	_ = d.cache.Refresh()
	return d.cache, nil
}

// Names implements plan.CDI.
func (d *cdiDevices) Names() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	c, err := d.open()
	if err != nil || len(d.dirs) == 0 {
		return nil
	}
	names := c.ListDevices()
	slices.Sort(names)
	return names
}

// Inject implements plan.CDI.
func (d *cdiDevices) Inject(spec *specs.Spec, names ...string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	c, err := d.open()
	if err != nil {
		return err
	}
	_, err = c.InjectDevices(spec, names...)
	return err
}

// broken says which files cannot be used, and why.
func (d *cdiDevices) broken() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	c, err := d.open()
	if err != nil {
		return []string{"WARNING: CDI: " + err.Error()}
	}
	var out []string
	for file, errs := range c.GetErrors() {
		for _, err := range errs {
			out = append(out, "WARNING: CDI: "+file+": "+err.Error())
		}
	}
	slices.Sort(out)
	return out
}
