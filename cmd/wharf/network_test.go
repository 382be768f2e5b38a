package main

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestNetworkVerbs(t *testing.T) {
	clean(t)
	var got string
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/wharf/v1/containers/") {
			w.Header().Set("Api-Version", "1.52")
			return
		}
		body, _ := io.ReadAll(r.Body)
		got = r.Method + " " + strings.TrimSpace(string(body))
		if strings.Contains(r.URL.Path, "nobody") {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"message":"No such container: nobody"}`)
			return
		}
		_ = json.NewEncoder(w).Encode(netLimits{
			Name: "web", Rules: []netRule{{"egress", "deny", "10.0.0.0/8", "label"}}, Egress: "allow", Ingress: "deny",
			BandwidthOut: netRate{"10mbit", "rule"}, Warnings: []string{"look out"},
		})
	})
	for _, c := range []struct {
		args, request, want string
		code                int
	}{
		{"rules web", "GET ", "egress     allow    the rest", 0},
		{"rules web", "GET ", "egress     limit    10mbit            rule", 0},
		{"rules web", "GET ", "web does not run", 0},
		{"rules --format json web", "GET ", `"Target": "10.0.0.0/8"`, 0},
		{"deny web --to 10.0.0.0/8 --port 443/tcp", `POST {"Set":[{"Direction":"egress","Verdict":"deny","Target":"10.0.0.0/8:443/tcp"}]}`, "WARNING: look out", 0},
		{"allow web --from any,::1 -p 80 -p icmp", `POST {"Set":[{"Direction":"ingress","Verdict":"allow","Target":"any:80"},{"Direction":"ingress","Verdict":"allow","Target":"any/icmp"},` +
			`{"Direction":"ingress","Verdict":"allow","Target":"[::1]:80"},{"Direction":"ingress","Verdict":"allow","Target":"::1/icmp"}]}`, "", 0},
		{"unset web --to 10.0.0.0/8", `POST {"Unset":[{"Direction":"egress","Verdict":"","Target":"10.0.0.0/8"}]}`, "", 0},
		{"unset web --all", `POST {"Clear":true}`, "", 0},
		{"limit web --egress none", `POST {"BandwidthOut":"none"}`, "", 0},
		{"rules nobody", "GET ", "No such container: nobody", 1},
		{"deny web", "", "say where: --to", 1},
		{"unset web", "", "say which rules", 1},
		{"unset web --all --to any", "", "say which rules", 1},
		{"limit web", "", "say how much", 1},
	} {
		got = ""
		out, code := wharf(t, h, append([]string{"network"}, strings.Fields(c.args)...)...)
		if got != c.request || code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("%s: request %s, code %d\n%s", c.args, got, code, out)
		}
	}
}
