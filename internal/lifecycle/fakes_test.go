package lifecycle

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/driver"
	"wharf/internal/model"
)

// world is every room and the driver as fakes. It outlives an Engine, so that
// a test can kill the daemon and start another one. What is held is in maps
// by id; fail makes an operation fail by name; die makes the daemon "die" at
// one: it and all after it fail and change nothing. reign is one daemon's time.
type world struct {
	t   testing.TB
	dir string

	mu      sync.Mutex
	fail    map[string]error
	die     string
	reign   *reign // the last engine's
	calls   []string
	images  map[string]model.Image
	layers  map[model.ID]bool
	nets    map[model.ID]bool
	vols    map[model.ID]map[string]bool // holder -> names
	volumes map[string]bool              // existing
	disks   map[string]model.ID          // volumes that are disks, and who has them
	recs    map[model.ID]model.Container
	removed map[model.ID]model.Container
	trashed []model.TrashedVolume
	noTrash bool
	early   bool        // the driver can begin before the network is there
	bounds  TrashBounds // of the engines
	puts    int
	syncs   int
	events  []events.Message
	insts   map[model.ID]*fakeInstance
	onRun   func(*fakeInstance) // called when an instance starts
	log     []model.LogEntry
}

// reign is the world as one engine has it: what an engine that died or was
// closed has still under way does nothing to the world of the next one.
type reign struct {
	*world
	over bool // world.mu protects it
}

func newWorld(t testing.TB) *world {
	w := &world{
		t: t, dir: t.TempDir(), fail: map[string]error{}, images: map[string]model.Image{}, layers: map[model.ID]bool{}, nets: map[model.ID]bool{},
		vols: map[model.ID]map[string]bool{}, volumes: map[string]bool{}, disks: map[string]model.ID{}, removed: map[model.ID]model.Container{}, recs: map[model.ID]model.Container{}, insts: map[model.ID]*fakeInstance{},
	}
	w.images["busybox"] = model.Image{ID: digest.FromString("busybox"), Config: container.Config{Cmd: []string{"sh"}}}
	return w
}

// step notes a call and decides whether it fails.
func (w *reign) step(name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return errors.New("the daemon is dead")
	}
	w.calls = append(w.calls, name)
	if w.die == name {
		w.over = true
		return errors.New("the daemon died at " + name)
	}
	return w.fail[name]
}

// begin ends the last engine's reign.
func (w *world) begin() *reign {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reign != nil {
		w.reign.over = true
	}
	w.die, w.reign = "", &reign{world: w}
	return w.reign
}

func (w *world) engine() *Engine {
	w.t.Helper()
	r := w.begin()
	e, err := New(Options{
		Images: fakeImages{r}, Networks: fakeNetworks{r}, Volumes: fakeVolumes{r}, Logs: fakeLogs{r}, Records: fakeRecords{r}, Archives: fakeArchives{r},
		Drivers:  map[model.Isolation]driver.Driver{model.IsolationContainer: r.driver(), model.IsolationVM: fakeMachines{fakeDriver{r}}},
		DataRoot: w.dir, planner: fakePlan{}, Trash: w.bounds, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(e.Close)
	return e
}

// clean fails the test if anything is held.
func (w *world) clean() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.disks) != 0 {
		w.t.Errorf("left behind: disks %v", w.disks)
	}
	if len(w.layers)+len(w.nets)+len(w.vols)+len(w.recs)+len(w.insts) != 0 {
		w.t.Errorf("left behind: layers %v, networks %v, volumes %v, records %v, instances %v", w.layers, w.nets, w.vols, slices.Collect(maps.Keys(w.recs)), w.insts)
	}
	if dirs, _ := filepath.Glob(w.dir + "/containers/*"); len(dirs) != 0 {
		w.t.Errorf("left behind: %v", dirs)
	}
}

// actions are the published container actions, health checks' execs aside.
func (w *world) actions() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, m := range w.events {
		out = append(out, string(m.Action))
	}
	return out
}

func (w *world) lastEvent(a events.Action) (events.Message, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range slices.Backward(w.events) {
		if m.Action == a {
			return m, true
		}
	}
	return events.Message{}, false
}

func (w *world) instance(id string) *fakeInstance {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	i := w.insts[model.ID(id)]
	if i == nil {
		w.t.Fatalf("no instance %s", id)
	}
	return i
}

type fakeImages struct{ w *reign }

func (f fakeImages) Resolve(_ context.Context, ref string, _ *ocispec.Platform) (model.Image, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if img, ok := f.w.images[ref]; ok {
		return img, nil
	}
	return model.Image{}, notFound("No such image: %s", ref)
}

func (f fakeImages) Prepare(_ context.Context, id model.ID, _ model.Image) error {
	if err := f.w.step("prepare"); err != nil {
		return err
	}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.layers[id] = true
	return nil
}

func (f fakeImages) Disks(ctx context.Context, id model.ID) (model.Rootfs, error) {
	return f.Rootfs(ctx, id)
}

func (f fakeImages) Rootfs(_ context.Context, id model.ID) (model.Rootfs, error) {
	return model.Rootfs{Lower: []string{"/l"}, Upper: "/u/" + string(id), Work: "/w"}, f.w.step("rootfs")
}

func (f fakeImages) Discard(_ context.Context, id model.ID) error {
	if err := f.w.step("discard"); err != nil {
		return err
	}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	delete(f.w.layers, id)
	return nil
}

func (f fakeImages) Pin(context.Context, model.ID, ...model.Image) error { return nil }

func (f fakeImages) Disk(_ context.Context, img model.Image) (string, error) {
	return "/disks/" + string(img.ID), nil
}

func (f fakeImages) DiskSoon(model.Image) {}

func (f fakeImages) Layers(context.Context, model.Image) ([]string, error) {
	return []string{"/layer"}, nil
}

func (f fakeImages) Prepared(context.Context) ([]model.ID, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return slices.Collect(maps.Keys(f.w.layers)), nil
}

func (f fakeImages) Mount(context.Context, model.ID, bool) (string, func() error, error) {
	return f.w.dir, func() error { return f.w.step("unmount") }, f.w.step("mount")
}

func (f fakeImages) Changes(context.Context, model.ID) ([]container.FilesystemChange, error) {
	return []container.FilesystemChange{{Kind: container.ChangeAdd, Path: "/x"}}, nil
}
func (f fakeImages) Chains(_ context.Context, chain digest.Digest) ([]digest.Digest, error) {
	if chain == "top" {
		return []digest.Digest{"top", "base"}, nil
	}
	return []digest.Digest{chain}, nil
}
func (f fakeImages) Kept(context.Context, []model.ID) (map[model.ID]int64, error) { return nil, nil }
func (f fakeImages) Usage(context.Context, model.ID) (int64, int64, error)        { return 10, 100, nil }
func (f fakeImages) CommitLayer(ctx context.Context, id model.ID, img model.Image, conf *ocispec.Image, cfg *container.Config, ref, author, comment string, _ io.Reader) (digest.Digest, error) {
	return f.Commit(ctx, id, img, conf, cfg, ref, author, comment)
}

func (f fakeImages) Commit(_ context.Context, _ model.ID, _ model.Image, _ *ocispec.Image, cfg *container.Config, ref, _, _ string) (digest.Digest, error) {
	if err := f.w.step("commit"); err != nil {
		return "", err
	}
	return digest.FromString(ref + strings.Join(cfg.Cmd, " ")), nil
}

type fakeNetworks struct{ w *reign }

func (f fakeNetworks) Check(_ context.Context, _ container.NetworkMode, want map[string]*network.EndpointSettings) error {
	for name, s := range want {
		s.NetworkID = "net-" + strings.TrimPrefix(name, "net-")
	}
	return f.w.step("check")
}

func (f fakeNetworks) Inspect(_ context.Context, ref string, _ bool) (*network.Inspect, error) {
	n := &network.Inspect{}
	n.Name = strings.TrimPrefix(ref, "net-")
	return n, nil
}

func (f fakeNetworks) Attach(_ context.Context, r AttachNetworks) ([]model.Endpoint, error) {
	if err := f.w.step("attach"); err != nil {
		return nil, err
	}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.nets[r.ID] = true
	var out []model.Endpoint
	for name := range r.Want {
		out = append(out, model.Endpoint{Network: name, Settings: &network.EndpointSettings{NetworkID: "net-" + name}, Interface: "eth0", Ports: r.Ports})
	}
	return out, nil
}

func (f fakeNetworks) Detach(_ context.Context, id model.ID) error {
	if err := f.w.step("detach"); err != nil {
		return err
	}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	delete(f.w.nets, id)
	return nil
}

func (f fakeNetworks) Attached(context.Context) ([]model.ID, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return slices.Collect(maps.Keys(f.w.nets)), nil
}
func (f fakeNetworks) Restore(context.Context, model.ID, []model.Endpoint) error {
	return f.w.step("net-restore")
}
func (f fakeNetworks) Stats(context.Context, model.ID) (map[string]container.NetworkStats, error) {
	return map[string]container.NetworkStats{"eth0": {RxBytes: 7}}, nil
}
func (f fakeNetworks) Connect(_ context.Context, r AttachNetworks, name string) (model.Endpoint, error) {
	return model.Endpoint{Network: name, Settings: &network.EndpointSettings{NetworkID: "net-" + name}}, f.w.step("connect")
}
func (f fakeNetworks) Disconnect(context.Context, model.ID, string, bool) error {
	return f.w.step("disconnect")
}

func (f fakeNetworks) Refresh(_ context.Context, r AttachNetworks) ([]model.Endpoint, error) {
	return nil, f.w.step("refresh")
}
func (f fakeNetworks) CheckLimits(labels map[string]string, _ container.NetworkMode, _ bool) error {
	if labels["wharf.egress.deny"] == "nowhere" {
		return invalid("label wharf.egress.deny: nowhere")
	}
	return nil
}

func (f fakeNetworks) ChangeRules(_ *model.NetworkRules, ch model.NetworkRulesChange) (*model.NetworkRules, error) {
	var n model.NetworkRules
	for _, x := range ch.Set {
		n.EgressDeny = append(n.EgressDeny, x.Target)
	}
	return &n, nil
}

func (f fakeNetworks) ShowRules(_ map[string]string, n *model.NetworkRules) (out model.NetworkLimits, _ error) {
	if n == nil {
		return out, nil
	}
	for _, w := range n.EgressDeny {
		out.Rules = append(out.Rules, model.NetworkRule{Direction: "egress", Verdict: "deny", Target: w})
	}
	return out, nil
}

func (f fakeNetworks) CheckRules(r AttachNetworks, _ container.NetworkMode) error {
	if r.NetAdmin {
		return conflict("may change its own network")
	}
	return nil
}

func (f fakeNetworks) Mend(context.Context, AttachNetworks) (bool, error) {
	return false, f.w.step("mend")
}

func (f fakeNetworks) Limit(context.Context, AttachNetworks) error { return f.w.step("limit") }

type fakeVolumes struct{ w *reign }

func (f fakeVolumes) Use(_ context.Context, id model.ID, m model.Mount) (string, error) {
	if err := f.w.step("use"); err != nil {
		return "", err
	}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if f.w.vols[id] == nil {
		f.w.vols[id] = map[string]bool{}
	}
	f.w.vols[id][m.Name], f.w.volumes[m.Name] = true, true
	return "/volumes/" + m.Name, nil
}

// Volumes whose names begin with "disk" are disks; one instance has each.
func (f fakeVolumes) IsDisk(name string) bool { return strings.HasPrefix(name, "disk") }

func (f fakeVolumes) Disk(_ context.Context, id model.ID, m model.Mount) (string, error) {
	if !f.IsDisk(m.Name) {
		return "", nil
	}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if has := f.w.disks[m.Name]; has != "" && has != id {
		return "", errdefs.ErrConflict.WithMessage("container " + has.Short() + " has it")
	}
	f.w.disks[m.Name] = id
	return "/volumes/" + m.Name + "/disk", nil
}

func (f fakeVolumes) GiveDisks(id model.ID) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if f.w.over {
		return
	}
	maps.DeleteFunc(f.w.disks, func(_ string, has model.ID) bool { return has == id })
}

func (f fakeVolumes) LookInto(ctx context.Context, name string) (string, func(), error) {
	file, err := f.Disk(ctx, "look", model.Mount{Name: name})
	return file, func() { f.GiveDisks("look") }, err
}

func (f fakeVolumes) CopyUp(context.Context, model.Mount, string) error { return f.w.step("copyup") }

func (f fakeVolumes) Unuse(_ context.Context, id model.ID, mounts []model.Mount, remove bool) error {
	if err := f.w.step("unuse"); err != nil {
		return err
	}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	delete(f.w.vols, id)
	for _, m := range mounts {
		if m.Anonymous && remove {
			delete(f.w.volumes, m.Name)
			if !f.w.noTrash {
				f.w.trashed = append(f.w.trashed, model.TrashedVolume{ID: model.NewID().Short(), Name: m.Name, Removed: time.Now(), Container: id, Size: 5})
			}
		}
	}
	return nil
}

func (f fakeVolumes) Restore(_ context.Context, id model.ID, mounts []model.Mount) error {
	for _, m := range mounts {
		if m.Type == "volume" {
			_, _ = f.Use(context.Background(), id, m)
		}
	}
	return nil
}

func (f fakeVolumes) Trashed(context.Context) ([]model.TrashedVolume, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return slices.Clone(f.w.trashed), nil
}

func (f fakeVolumes) take(id string) (model.TrashedVolume, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	for i, v := range f.w.trashed {
		if v.ID == id {
			f.w.trashed = slices.Delete(f.w.trashed, i, i+1)
			return v, nil
		}
	}
	return model.TrashedVolume{}, errdefs.ErrNotFound
}

func (f fakeVolumes) RestoreTrashed(_ context.Context, id, as string) (*volume.Volume, error) {
	if err := f.w.step("vol-restore"); err != nil {
		return nil, err
	}
	v, err := f.take(id)
	if err != nil {
		return nil, err
	}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.volumes[orName(as, v.Name)] = true
	return &volume.Volume{Name: orName(as, v.Name)}, nil
}

func (f fakeVolumes) Purge(_ context.Context, id string) error {
	if err := f.w.step("vol-purge"); err != nil {
		return err
	}
	_, err := f.take(id)
	return err
}

func (f fakeVolumes) SetTrash(on bool) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.noTrash = !on
}

func (f fakeVolumes) Sweep(context.Context) error { return f.w.step("vol-sweep") }

type fakeLogs struct{ w *reign }

func (f fakeLogs) Remove(model.LogPlan) error { return f.w.step("log-remove") }
func (f fakeLogs) Read(_ context.Context, _ model.LogPlan, r model.LogsRequest, done <-chan struct{}) (model.LogReader, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if !r.Follow {
		done = nil
	}
	return &fakeLog{entries: slices.Clone(f.w.log), done: done}, nil
}

type fakeLog struct {
	entries []model.LogEntry
	done    <-chan struct{}
}

func (l *fakeLog) Next() (model.LogEntry, error) {
	if len(l.entries) == 0 {
		if l.done != nil {
			<-l.done
		}
		return model.LogEntry{}, io.EOF
	}
	e := l.entries[0]
	l.entries = l.entries[1:]
	return e, nil
}
func (l *fakeLog) Close() error { return nil }

type fakeRecords struct{ w *reign }

func (f fakeRecords) PutContainer(_ context.Context, c model.Container, durable bool) error {
	if err := f.w.step("put-" + string(c.State.Phase)); err != nil {
		return err
	}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.recs[c.ID] = c
	f.w.puts++
	if durable {
		f.w.syncs++
	}
	return nil
}

func (f fakeRecords) DeleteContainer(_ context.Context, id model.ID) error {
	if err := f.w.step("delete"); err != nil {
		return err
	}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	delete(f.w.recs, id)
	return nil
}

func (f fakeRecords) Containers(context.Context) ([]model.Container, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return slices.Collect(maps.Values(f.w.recs)), nil
}

func (f fakeRecords) Publish(typ events.Type, a events.Action, id string, attrs map[string]string) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if f.w.over {
		return
	}
	f.w.events = append(f.w.events, events.Message{Type: typ, Action: a, Actor: events.Actor{ID: id, Attributes: attrs}})
}

func (f fakeRecords) RemoveContainer(_ context.Context, c model.Container) error {
	if err := f.w.step("trash"); err != nil {
		return err
	}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	delete(f.w.recs, c.ID)
	f.w.removed[c.ID] = c
	return nil
}

func (f fakeRecords) RestoreContainer(_ context.Context, c model.Container) error {
	if err := f.w.step("untrash"); err != nil {
		return err
	}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	delete(f.w.removed, c.ID)
	f.w.recs[c.ID] = c
	return nil
}

func (f fakeRecords) PutRemoved(_ context.Context, c model.Container) error {
	if err := f.w.step("put-removed"); err != nil {
		return err
	}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.removed[c.ID] = c
	return nil
}

func (f fakeRecords) Removed(context.Context) ([]model.Container, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return slices.Collect(maps.Values(f.w.removed)), nil
}

func (f fakeRecords) RemovedContainer(_ context.Context, id model.ID) (model.Container, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	c, ok := f.w.removed[id]
	if !ok {
		return c, errdefs.ErrNotFound
	}
	return c, nil
}

func (f fakeRecords) ForgetRemoved(_ context.Context, ids ...model.ID) error {
	if err := f.w.step("forget-removed"); err != nil {
		return err
	}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	for _, id := range ids {
		delete(f.w.removed, id)
	}
	return nil
}

type fakeArchives struct{ w *reign }

func (f fakeArchives) Stat(_ context.Context, r Root, p string) (container.PathStat, error) {
	if strings.HasSuffix(p, "missing") {
		return container.PathStat{}, errdefs.ErrNotFound
	}
	return container.PathStat{Name: r.Dir + ":" + p}, nil
}
func (f fakeArchives) Get(context.Context, Root, string) (io.ReadCloser, container.PathStat, error) {
	return io.NopCloser(strings.NewReader("tar")), container.PathStat{}, nil
}
func (f fakeArchives) Put(context.Context, Root, string, PutOptions, io.Reader) error {
	return f.w.step("tar-put")
}
func (f fakeArchives) Export(context.Context, Root) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("tar")), nil
}
