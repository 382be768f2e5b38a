package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// LinkEnv are the variables that a link on the default bridge puts into the
// environment of parent, in Docker's form: ALIAS_NAME, ALIAS_PORT and one
// group for each port that the other container exposes, and its own variables
// as ALIAS_ENV_*.
func LinkEnv(parent, alias string, ip netip.Addr, other *container.Config) []string {
	name := strings.ReplaceAll(strings.ToUpper(alias), "-", "_")
	var ports []network.Port
	for p := range other.ExposedPorts {
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b network.Port) int {
		return cmp.Or(cmp.Compare(a.Num(), b.Num()), cmp.Compare(b.Proto(), a.Proto())) // udp before tcp
	})
	var env []string
	url := func(p network.Port) string { return fmt.Sprintf("%s://%s:%d", p.Proto(), ip, p.Num()) }
	for i, p := range ports {
		if i == 0 {
			env = append(env, name+"_PORT="+url(p))
		}
		prefix := fmt.Sprintf("%s_PORT_%d_%s", name, p.Num(), strings.ToUpper(string(p.Proto())))
		env = append(env, prefix+"="+url(p), fmt.Sprintf("%s_ADDR=%s", prefix, ip), fmt.Sprintf("%s_PORT=%d", prefix, p.Num()),
			fmt.Sprintf("%s_PROTO=%s", prefix, p.Proto()))
	}
	env = append(env, fmt.Sprintf("%s_NAME=/%s/%s", name, parent, alias))
	for _, v := range other.Env {
		if key, _, ok := strings.Cut(v, "="); ok && key != "HOME" && key != "PATH" {
			env = append(env, name+"_ENV_"+v)
		}
	}
	return env
}
