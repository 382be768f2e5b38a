package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// absent are options of dockerd that wharf has not, with the reason or the
// remedy. They are refused, in the file and as flags.
var absent = map[string]string{
	"metrics-addr":                     "metrics are not there yet",
	"runtimes":                         "external OCI runtimes are not there yet",
	"add-runtime":                      "external OCI runtimes are not there yet",
	"authorization-plugins":            "there are no plugins; restrict who may open the socket",
	"authorization-plugin":             "there are no plugins; restrict who may open the socket",
	"containerd":                       "wharf needs no containerd daemon; leave it out",
	"containerd-namespace":             "wharf needs no containerd daemon; leave it out",
	"containerd-plugins-namespace":     "wharf needs no containerd daemon; leave it out",
	"cri-containerd":                   "wharf needs no containerd daemon; leave it out",
	"init-path":                        "wharf brings its own init; leave it out",
	"userland-proxy-path":              "the relay is part of the daemon; leave it out",
	"bip6":                             "give fixed-cidr-v6; the bridge has its first address",
	"default-gateway-v6":               "the bridge is the gateway; leave it out",
	"ip6tables":                        "rules for IPv6 are written with those for IPv4; leave it out",
	"ip-forward-no-drop":               "wharf never changes the policy of other tables; leave it out",
	"default-network-opts":             "give the options when the network is made",
	"default-network-opt":              "give the options when the network is made",
	"bridge-accept-fwmark":             "not there yet",
	"allow-direct-routing":             "not there yet",
	"network-control-plane-mtu":        "swarm is not there yet",
	"network-diagnostic-port":          "swarm is not there yet",
	"swarm-default-advertise-addr":     "swarm is not there yet",
	"swarm-raft-heartbeat-tick":        "swarm is not there yet",
	"swarm-raft-election-tick":         "swarm is not there yet",
	"node-generic-resources":           "swarm is not there yet",
	"node-generic-resource":            "swarm is not there yet",
	"storage-opts":                     "overlay needs no options",
	"storage-opt":                      "overlay needs no options",
	"max-download-attempts":            "a broken download goes on where it was, three times; leave it out",
	"oom-score-adjust":                 "set OOMScoreAdjust= in the unit",
	"cpu-rt-period":                    "set it per container with --cpu-rt-period",
	"cpu-rt-runtime":                   "set it per container with --cpu-rt-runtime",
	"proxies":                          "use http-proxy, https-proxy and no-proxy",
	"rootless":                         "a daemon without root is not there yet",
	"allow-nondistributable-artifacts": "all layers are pushed; leave it out",
	"api-cors-header":                  "Docker removed it too; put a proxy in front",
	"validate":                         "it is a flag only",
	"config-file":                      "it is a flag only",
	"nri-opts":                         "there are no plugins",
	"nri-opt":                          "there are no plugins",
}

// readFile puts the file's values over c. given are keys that flags gave.
func (c *Config) readFile(text []byte, given map[string]string) error {
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	if len(bytes.TrimSpace(text)) == 0 {
		return nil
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(text, &raw); err != nil {
		return err
	}
	known := make(map[string]field)
	for _, f := range fields(c) {
		known[f.key] = f
	}
	var unknown, both []string
	for _, key := range slices.Sorted(maps.Keys(raw)) {
		if why, ok := absent[key]; ok {
			return fmt.Errorf("%q is not supported by wharf: %s", key, why)
		}
		f, ok := known[key]
		if !ok {
			unknown = append(unknown, key)
			continue
		}
		if flag, ok := given[key]; ok {
			both = append(both, fmt.Sprintf("%s: (from flag: %s, from file: %s)", key, flag, strings.TrimSpace(string(raw[key]))))
			continue
		}
		dec := json.NewDecoder(bytes.NewReader(raw[key]))
		dec.DisallowUnknownFields()
		f.value.Set(reflect.Zero(f.value.Type()))
		if err := dec.Decode(f.value.Addr().Interface()); err != nil {
			return fmt.Errorf("%q: %w", key, err)
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("the following directives don't match any configuration option: %s", strings.Join(unknown, ", "))
	}
	if len(both) > 0 {
		return fmt.Errorf("the following directives are specified both as a flag and in the configuration file: %s", strings.Join(both, ", "))
	}
	return nil
}
