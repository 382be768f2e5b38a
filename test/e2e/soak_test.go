package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// soakTime is how long random verbs run: WHARF_SOAK=2m for the long one.
func soakTime(t *testing.T) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(os.Getenv("WHARF_SOAK"))
	if err != nil {
		return 15 * time.Second
	}
	return d
}

// soaker is one client that does random things.
type soaker struct {
	s     *scene
	c     *http.Client
	names []string
	rand  *rand.Rand
	count map[string]int // by verb and status
}

func newSoaker(s *scene, seed uint64, names []string) *soaker {
	return &soaker{s: s, names: names, rand: rand.New(rand.NewPCG(seed, 1)), count: map[string]int{},
		c: &http.Client{Timeout: commandLimit, Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", s.d.socket())
			},
		}}}
}

// do sends a request and returns status and answer.
func (k *soaker) do(verb, method, path, body string) (int, []byte) {
	req, err := http.NewRequest(method, "http://wharf/v1.50"+path, strings.NewReader(body))
	if err != nil {
		k.s.Error(err)
		return 0, nil
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := k.c.Do(req)
	if err != nil {
		k.s.Errorf("%s: %v", verb, err)
		return 0, nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	k.count[fmt.Sprintf("%s %d", verb, resp.StatusCode)]++
	if resp.StatusCode >= 500 || resp.StatusCode == http.StatusBadRequest {
		k.s.Errorf("%s %s: %d %s", verb, path, resp.StatusCode, bytes.TrimSpace(b))
	}
	return resp.StatusCode, b
}

// verbs are what a soaker does to one name.
func (k *soaker) verbs() map[string]func(string) {
	post := func(verb, suffix string) func(string) {
		return func(name string) { k.do(verb, "POST", "/containers/"+name+suffix, "") }
	}
	get := func(verb, suffix string) func(string) {
		return func(name string) { k.do(verb, "GET", "/containers/"+name+suffix, "") }
	}
	return map[string]func(string){
		"start": post("start", "/start"), "stop": post("stop", "/stop?t=0"), "kill": post("kill", "/kill"),
		"restart": post("restart", "/restart?t=0"), "pause": post("pause", "/pause"), "unpause": post("unpause", "/unpause"),
		"inspect": get("inspect", "/json"), "logs": get("logs", "/logs?stdout=1&stderr=1&tail=10"),
		"top": get("top", "/top"), "stats": get("stats", "/stats?stream=0&one-shot=1"),
		"remove": func(name string) { k.do("remove", "DELETE", "/containers/"+name+"?force=1&v=1", "") },
		"create": k.create, "exec": k.exec, "connect": k.connect,
		"list": func(string) { k.do("list", "GET", "/containers/json?all=1", "") },
		"update": func(name string) {
			k.do("update", "POST", "/containers/"+name+"/update", `{"Memory":67108864,"MemorySwap":67108864}`)
		},
		"prune": func(string) {
			k.do("prune", "POST", "/containers/prune?filters="+`{"label":{"e2e=`+k.s.label+`":true}}`, "")
		},
	}
}

func (k *soaker) create(name string) {
	policy := []string{"no", "always", "unless-stopped"}[k.rand.IntN(3)]
	body := fmt.Sprintf(`{"Image":"busybox","Cmd":["sh","-c","while :; do echo tick; sleep 0.1; done"],"Labels":{"e2e":%q},
		"Volumes":{"/anon":{}},"HostConfig":{"Init":true,"RestartPolicy":{"Name":%q}}}`, k.s.label, policy)
	if code, _ := k.do("create", "POST", "/containers/create?name="+name, body); code == http.StatusCreated && k.rand.IntN(2) == 0 {
		k.do("start", "POST", "/containers/"+name+"/start", "")
	}
}

func (k *soaker) exec(name string) {
	code, b := k.do("exec", "POST", "/containers/"+name+"/exec", `{"Cmd":["true"],"AttachStdout":true}`)
	var made struct{ ID string }
	if code != http.StatusCreated || json.Unmarshal(b, &made) != nil {
		return
	}
	k.do("exec start", "POST", "/exec/"+made.ID+"/start", `{"Detach":true}`)
}

func (k *soaker) connect(name string) {
	body := fmt.Sprintf(`{"Container":%q,"Force":true}`, name)
	verb := []string{"connect", "disconnect"}[k.rand.IntN(2)]
	net := k.s.name("net")
	req := "/networks/" + net + "/" + verb
	resp, err := k.c.Post("http://wharf/v1.50"+req, "application/json", strings.NewReader(body))
	if err != nil {
		k.s.Errorf("%s: %v", verb, err)
		return
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	k.count[fmt.Sprintf("%s %d", verb, resp.StatusCode)]++
	// Docker answers 500 to a container that is not on the network.
	if resp.StatusCode >= 500 && !bytes.Contains(b, []byte("is not connected to")) {
		k.s.Errorf("%s %s: %d %s", verb, name, resp.StatusCode, bytes.TrimSpace(b))
	}
}

// run does random verbs until the end.
func (k *soaker) run(until time.Time) {
	verbs := k.verbs()
	var list []string
	for _, v := range []string{"create", "create", "start", "start", "stop", "kill", "restart", "pause", "unpause", "unpause", "inspect",
		"logs", "top", "stats", "remove", "exec", "exec", "list", "update", "connect", "connect", "prune"} {
		if verbs[v] != nil {
			list = append(list, v)
		}
	}
	for time.Now().Before(until) && !k.s.Failed() {
		verbs[list[k.rand.IntN(len(list))]](k.names[k.rand.IntN(len(k.names))])
	}
}

// Several clients do random things to the same few containers. No answer is an
// error of the server, and at the end nothing is out of order.
func TestSoak(t *testing.T) {
	s := ownDaemon(t)
	s.ok("network", "create", s.name("net"))
	names := make([]string, 6)
	for i := range names {
		names[i] = s.name(fmt.Sprintf("c%d", i))
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	until := time.Now().Add(soakTime(t))
	total := map[string]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 5 {
		k := newSoaker(s, seed+uint64(i), names)
		wg.Go(func() {
			k.run(until)
			mu.Lock()
			defer mu.Unlock()
			for v, n := range k.count {
				total[v] += n
			}
		})
	}
	for time.Now().Before(until) && !t.Failed() { // also while they work
		if err := s.d.ask(); err != nil {
			t.Errorf("during the soak: %v", err)
		}
		time.Sleep(500 * time.Millisecond)
	}
	wg.Wait()
	t.Logf("%v", total)
	if err := s.d.ask(); err != nil {
		t.Error(err)
	}
	for _, name := range names {
		s.docker("rm", "-f", "-v", name)
	}
	s.ok("network", "rm", s.name("net"))
	if err := s.d.ask(); err != nil {
		t.Error(err)
	}
}

// Opposite verbs at once: each answer is one that a person can understand, and
// the state afterwards is that of one of them.
func TestOpposites(t *testing.T) {
	s := newScene(t)
	for _, pair := range [][2]string{{"start", "remove"}, {"stop", "restart"}, {"pause", "kill"}, {"remove", "remove"}, {"start", "start"}, {"stop", "remove"}} {
		for round := range 4 {
			name := s.name(fmt.Sprintf("%s-%s-%d", pair[0], pair[1], round))
			s.ok("create", "--init", "--name", name, "busybox", "sleep", "1000")
			if pair[0] != "start" {
				s.ok("start", name)
			}
			a, b := newSoaker(s, 1, nil), newSoaker(s, 2, nil)
			var wg sync.WaitGroup
			wg.Go(func() { a.verbs()[pair[0]](name) })
			wg.Go(func() { b.verbs()[pair[1]](name) })
			wg.Wait()
			for _, k := range []*soaker{a, b} {
				for got := range k.count {
					code := got[strings.LastIndexByte(got, ' ')+1:]
					if !strings.Contains(" 200 204 304 404 409 ", " "+code+" ") {
						s.Errorf("%v: %s", pair, got)
					}
				}
			}
			st := s.docker("inspect", "-f", "{{.State.Status}}", name).out()
			if pair[0] == "remove" || pair[1] == "remove" {
				s.equal(fmt.Sprint(pair), st, "")
			} else if pair[0] == "start" || pair[1] == "restart" && st != "exited" {
				s.equal(fmt.Sprint(pair), st, "running")
			}
		}
	}
}
