package network

import (
	"context"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
)

func TestConfigurationNetworks(t *testing.T) {
	dir := t.TempDir()
	r := open(t, Options{Dir: dir})
	yes := true
	create(t, r, network.CreateRequest{
		Name: "tpl", ConfigOnly: true, EnableIPv6: &yes, Labels: map[string]string{"team": "a"},
		Options: map[string]string{optMTU: "1400"}, IPAM: ipam(subnet("10.77.0.0/24", "10.77.0.9", "")),
	})
	from := func(name string) network.CreateRequest {
		return network.CreateRequest{Name: name, ConfigFrom: &network.ConfigReference{Network: "tpl"}}
	}
	create(t, r, from("made"))
	in, err := r.Inspect(bg, "made", false)
	if err != nil {
		t.Fatal(err)
	}
	if !in.EnableIPv6 || in.Labels["team"] != "a" || in.Options[optMTU] != "1400" || in.IPAM.Config[0].Gateway.String() != "10.77.0.9" || in.ConfigFrom.Network != "tpl" || in.ConfigOnly || in.Driver != "bridge" {
		t.Errorf("%+v", in)
	}
	tpl, err := r.Inspect(bg, "tpl", false)
	if err != nil || !tpl.ConfigOnly || tpl.Driver != "null" || len(tpl.Containers) != 0 {
		t.Errorf("%+v, %v", tpl, err)
	}
	a := newBox(t)
	if ep := attach(t, r, a.request("made"))[0]; ep.MTU != 1400 || ep.Settings.Gateway.String() != "10.77.0.9" {
		t.Errorf("%+v", ep)
	}
	own := from("own")
	own.Labels = map[string]string{"x": "y"}
	for _, c := range []struct {
		q    network.CreateRequest
		is   func(error) bool
		want string
	}{
		{from("second"), errdefs.IsPermissionDenied, "Pool overlaps"},
		{own, errdefs.IsPermissionDenied, "user-specified configurations are not supported"},
		{network.CreateRequest{Name: "x", ConfigFrom: &network.ConfigReference{Network: "made"}}, errdefs.IsNotFound, `configuration network "made" does not exist`},
		{network.CreateRequest{Name: "x", ConfigOnly: true, Internal: true}, errdefs.IsPermissionDenied, "network specific fields"},
		{network.CreateRequest{Name: "x", ConfigOnly: true, ConfigFrom: &network.ConfigReference{Network: "tpl"}}, errdefs.IsPermissionDenied, "cannot depend on another"},
		{network.CreateRequest{Name: "x", ConfigOnly: true, IPAM: ipam(subnet("10.78.0.0/24", "10.79.0.1", ""))}, errdefs.IsInvalidArgument, "invalid gateway 10.79.0.1"},
		{network.CreateRequest{Name: "tpl", ConfigOnly: true}, errdefs.IsConflict, "already exists"},
	} {
		if _, err := r.Create(bg, c.q); err == nil || !c.is(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.q, err)
		}
	}
	configurationIsNoNetwork(t, r)
	again, err := Open(context.Background(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if tpl, err := again.Inspect(bg, "tpl", false); err != nil || !tpl.ConfigOnly || tpl.IPAM.Config[0].Subnet.String() != "10.77.0.0/24" {
		t.Errorf("after a restart: %+v, %v", tpl, err)
	}
}

func configurationIsNoNetwork(t *testing.T, r *Room) {
	b := newBox(t)
	if _, err := r.Attach(bg, b.request("tpl")); !errdefs.IsPermissionDenied(err) {
		t.Error("attach:", err)
	}
	for mode, want := range map[string]map[string]*network.EndpointSettings{"tpl": nil, "made": {"tpl": nil}} {
		if err := r.Check(bg, container.NetworkMode(mode), want); !errdefs.IsPermissionDenied(err) {
			t.Errorf("check %s: %v", mode, err)
		}
	}
	if err := r.Remove(bg, "tpl"); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "in use by made") {
		t.Error("remove:", err)
	}
	if rep, err := r.Prune(bg, model.Filters{}); err != nil || len(rep.NetworksDeleted) != 0 {
		t.Errorf("%+v, %v", rep, err)
	}
}
