package build

import (
	"context"
	"errors"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/sys/user"
)

// layer is a layer of a chain: what its mount shows, and whether BuildKit
// computed it.
type layer struct {
	cache.ImmutableRef
	lower      string // of an overlay, or
	bind       string
	difference bool
	open       *int
}

func (l layer) GetString(key string) string {
	if l.difference && key == "cache.upperDiffParent" {
		return "x"
	}
	return ""
}

func (l layer) Mount(context.Context, bool, session.Group) (snapshot.Mountable, error) {
	return layerMount{l}, nil
}

type layerMount struct{ layer }

func (m layerMount) IdentityMapping() *user.IdentityMapping { return nil }

func (m layerMount) Mount() ([]mount.Mount, func() error, error) {
	ms := []mount.Mount{{Type: "bind", Source: m.bind}}
	switch {
	case m.lower != "":
		ms = []mount.Mount{{Type: "overlay", Options: []string{"index=off", "lowerdir=" + m.lower}}}
	case m.bind == "":
		return nil, nil, errors.New("nothing is there")
	}
	*m.open++
	return ms, func() error { *m.open--; return nil }, nil
}

func TestChainDirs(t *testing.T) {
	for name, c := range map[string]struct {
		chain []layer // lowest first
		want  []string
		views int
	}{
		"one":                  {[]layer{{bind: "a"}}, []string{"a"}, 1},
		"of steps":             {[]layer{{bind: "a"}, {lower: "b:a"}, {lower: "c:b:a"}}, []string{"a", "b", "c"}, 1},
		"linked onto a base":   {[]layer{{bind: "a"}, {lower: "b:a"}, {bind: "link"}}, []string{"a", "b", "link"}, 2},
		"two links and a step": {[]layer{{bind: "a"}, {bind: "l1"}, {bind: "l2"}, {lower: "run:merged:a"}}, []string{"a", "l1", "l2", "run"}, 4},
		"a difference":         {[]layer{{bind: "a"}, {bind: "d", difference: true}, {bind: "l"}}, nil, 0},
		"not there":            {[]layer{{}, {bind: "l"}}, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			open := 0
			var chain cache.RefList
			for _, l := range c.chain {
				l.open = &open
				chain = append(chain, l)
			}
			got, done, err := chainDirs(t.Context(), chain)
			if (err == nil) != (c.want != nil) {
				t.Fatalf("%v, %v", got, err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if open != c.views {
				t.Errorf("%d views are open, want %d", open, c.views)
			}
			if err == nil {
				if err := done(); err != nil || open != 0 {
					t.Errorf("%d are open at the end: %v", open, err)
				}
			}
		})
	}
}
