package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/mount"

	"wharf/internal/model"
)

// mounts resolves binds, volumes and tmpfs. Later kinds replace earlier ones
// at the same place: image volumes < --volumes-from < -v and --mount; two of
// the last kind at one place are an error.
func (cr *creation) mounts() error {
	at := make(map[string]model.Mount)
	own := make(map[string]bool)
	if err := cr.volumesFrom(at); err != nil {
		return err
	}
	put := func(m model.Mount) error {
		if own[m.Destination] {
			return invalid("Duplicate mount point: %s", m.Destination)
		}
		own[m.Destination] = true
		at[m.Destination] = m
		return nil
	}
	for _, dest := range slices.Sorted(maps.Keys(cr.hc.Tmpfs)) {
		m, err := tmpfsMount(dest, cr.hc.Tmpfs[dest])
		if err != nil {
			return err
		}
		if err := put(m); err != nil {
			return err
		}
	}
	for _, raw := range cr.hc.Binds {
		m, err := ParseBind(raw)
		if err != nil {
			return err
		}
		if m.Type == "bind" && cr.api < 44 && m.ReadOnly {
			m.RORecursive = "off"
		}
		if err := cr.ownRoot(&m); err != nil {
			return invalid("invalid volume specification: '%s': %s", raw, err)
		}
		if err := put(cr.volume(m, true)); err != nil {
			return err
		}
	}
	for _, spec := range cr.hc.Mounts {
		m, err := cr.mountSpec(spec)
		if err != nil {
			return err
		}
		if err := put(cr.volume(m, false)); err != nil {
			return err
		}
	}
	for raw := range cr.cfg.Volumes {
		dest, err := cleanTarget(raw)
		if err != nil {
			return err
		}
		if _, taken := at[dest]; !taken {
			at[dest] = cr.volume(model.Mount{Type: "volume", Destination: dest}, true)
		}
	}
	cr.c.Mounts = slices.SortedFunc(maps.Values(at), byDepth)
	return nil
}

// byDepth sorts mounts so that none hides a later one.
func byDepth(a, b model.Mount) int {
	if d := strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/"); d != 0 {
		return d
	}
	return strings.Compare(a.Destination, b.Destination)
}

// volume fills in what a volume mount leaves open; other mounts are as they
// were. --volume-driver counts for -v only.
func (cr *creation) volume(m model.Mount, driver bool) model.Mount {
	if m.Type != "volume" {
		return m
	}
	if m.Driver == "" && driver {
		m.Driver = cr.hc.VolumeDriver
	}
	if m.Driver == "" {
		m.Driver = "local"
	}
	if m.Name == "" {
		// Made from what is known, so that a plan can be repeated.
		sum := sha256.Sum256([]byte(string(cr.in.ID) + "\x00" + m.Destination))
		m.Name, m.Anonymous = hex.EncodeToString(sum[:]), true
	}
	if m.Mode == "" && m.Driver == "local" {
		m.Mode = "z"
	}
	return m
}

// volumesFrom takes over the binds and volumes of other containers.
func (cr *creation) volumesFrom(at map[string]model.Mount) error {
	for _, spec := range cr.hc.VolumesFrom {
		ref, mode, err := parseVolumesFrom(spec)
		if err != nil {
			return err
		}
		o, err := cr.lookup(ref)
		if err != nil {
			return invalid("%s", err)
		}
		for _, m := range o.Mounts {
			if m.Type == "tmpfs" {
				continue
			}
			m.ReadOnly = m.ReadOnly || !writable(mode)
			m.NoCopy = true
			at[m.Destination] = m
		}
	}
	return nil
}

func parseVolumesFrom(spec string) (ref, mode string, err error) {
	ref, mode, _ = strings.Cut(spec, ":")
	if ref == "" {
		return "", "", invalid("volumes-from specification cannot be an empty string")
	}
	if mode == "" {
		return ref, "rw", nil
	}
	k, ok := parseMode(mode)
	if !ok || k.propagation != "" || k.copy != "" {
		return "", "", invalid("invalid mode: %s", mode)
	}
	return ref, mode, nil
}

func writable(mode string) bool { return !slices.Contains(strings.Split(mode, ","), "ro") }

// modeWords are the kinds of words in -v's third part; one of each kind.
type modeWords struct{ rw, label, propagation, copy, consistency string }

var propagations = []string{"private", "rprivate", "shared", "rshared", "slave", "rslave"}

func parseMode(mode string) (modeWords, bool) {
	var k modeWords
	if mode == "" {
		return k, true
	}
	for _, w := range strings.Split(mode, ",") {
		var at *string
		switch {
		case w == "rw" || w == "ro":
			at = &k.rw
		case w == "z" || w == "Z":
			at = &k.label
		case slices.Contains(propagations, w):
			at = &k.propagation
		case w == "nocopy":
			at = &k.copy
		case w == "consistent" || w == "cached" || w == "delegated":
			at = &k.consistency // for other systems' shared folders; here all are the same
		default:
			return k, false
		}
		if *at != "" {
			return k, false
		}
		*at = w
	}
	return k, true
}

// ParseBind reads -v: "/dest", "source:/dest", "source:/dest:mode". Source is
// a host path or a volume's name. Volume names are checked by the volume room.
func ParseBind(raw string) (model.Mount, error) {
	bad := func(why string) (model.Mount, error) {
		if why != "" {
			why = ": " + why
		}
		return model.Mount{}, invalid("invalid volume specification: '%s'%s", raw, why)
	}
	parts := strings.Split(raw, ":")
	var source, target, mode string
	switch len(parts) {
	case 1:
		target = parts[0]
	case 2:
		if _, isMode := parseMode(parts[1]); isMode {
			return bad("") // "/x:ro" would be an anonymous volume with a mode
		}
		source, target = parts[0], parts[1]
	case 3:
		source, target, mode = parts[0], parts[1], parts[2]
	default:
		return bad("")
	}
	if parts[0] == "" || strings.ContainsRune(raw, 0) {
		return bad("")
	}
	k, ok := parseMode(mode)
	if !ok {
		return model.Mount{}, invalid("invalid mode: %s", mode)
	}
	dest, err := cleanTarget(target)
	if err != nil {
		return bad(err.Error())
	}
	m := model.Mount{Destination: dest, Mode: mode, ReadOnly: k.rw == "ro"}
	if path.IsAbs(source) {
		if k.copy != "" {
			return bad(`invalid mount config for type "bind": field VolumeOptions must not be specified`)
		}
		m.Type, m.Source, m.Recursive, m.CreateSource = "bind", path.Clean(source), true, true
		m.Propagation = k.propagation
		return m, nil
	}
	if k.propagation != "" {
		return bad(`invalid mount config for type "volume": field BindOptions must not be specified`)
	}
	m.Type, m.Name, m.NoCopy = "volume", source, k.copy != ""
	return m, nil
}

// cleanTarget checks a place inside the container.
func cleanTarget(target string) (string, error) {
	if target == "" {
		return "", invalid("field Target must not be empty")
	}
	if strings.ContainsRune(target, 0) {
		return "", invalid("invalid mount path: %q contains a NUL byte", target)
	}
	if !path.IsAbs(target) {
		return "", invalid("invalid mount path: '%s' mount path must be absolute", target)
	}
	target = path.Clean(target)
	if target == "/" {
		return "", invalid("invalid specification: destination can't be '/'")
	}
	return target, nil
}

// mountSpec reads one entry of HostConfig.Mounts (--mount).
func (cr *creation) mountSpec(s mount.Mount) (model.Mount, error) {
	bad := func(format string, args ...any) (model.Mount, error) {
		return model.Mount{}, invalid("invalid mount config for type %q: %s", s.Type, fmt.Sprintf(format, args...))
	}
	for _, o := range []struct {
		set  bool
		typ  mount.Type
		name string
	}{
		{s.BindOptions != nil, mount.TypeBind, "BindOptions"},
		{s.VolumeOptions != nil, mount.TypeVolume, "VolumeOptions"},
		{s.ImageOptions != nil, mount.TypeImage, "ImageOptions"},
		{s.TmpfsOptions != nil, mount.TypeTmpfs, "TmpfsOptions"},
		{s.ClusterOptions != nil, mount.TypeCluster, "ClusterOptions"},
	} {
		if o.set && s.Type != o.typ {
			return bad("field %s must not be specified", o.name)
		}
	}
	switch s.Consistency {
	case "", mount.ConsistencyFull, mount.ConsistencyCached, mount.ConsistencyDelegated, mount.ConsistencyDefault:
	default:
		return bad("unknown consistency %q", s.Consistency)
	}
	dest, err := cleanTarget(s.Target)
	if err != nil {
		return bad("%s", err)
	}
	m := model.Mount{Type: string(s.Type), Destination: dest, ReadOnly: s.ReadOnly}
	switch s.Type {
	case mount.TypeBind:
		err = cr.bindSpec(&m, s)
	case mount.TypeVolume:
		err = volumeSpec(&m, s)
	case mount.TypeTmpfs:
		err = tmpfsSpec(&m, s)
	case mount.TypeImage:
		return cr.imageSpec(m, s)
	case mount.TypeCluster, mount.TypeNamedPipe:
		return model.Mount{}, invalid("mount type %q is not supported on a single Linux host", s.Type)
	default:
		return bad("mount type unknown")
	}
	if err != nil {
		return bad("%s", err)
	}
	return m, nil
}

func (cr *creation) bindSpec(m *model.Mount, s mount.Mount) error {
	if s.Source == "" {
		return invalid("field Source must not be empty")
	}
	if !path.IsAbs(s.Source) || strings.ContainsRune(s.Source, 0) {
		return invalid("invalid mount path: '%s' mount path must be absolute", s.Source)
	}
	o := s.BindOptions
	if o == nil {
		o = &mount.BindOptions{}
	}
	m.Source = path.Clean(s.Source)
	m.Recursive = !o.NonRecursive
	m.CreateSource = o.CreateMountpoint
	m.Propagation = string(o.Propagation)
	if err := cr.ownRoot(m); err != nil {
		return err
	}
	if !slices.Contains(propagations, m.Propagation) {
		return invalid("invalid propagation mode: %s", m.Propagation)
	}
	switch {
	case !s.ReadOnly && o.ReadOnlyNonRecursive:
		return invalid("mount options conflict: !ReadOnly && BindOptions.ReadOnlyNonRecursive")
	case !s.ReadOnly && o.ReadOnlyForceRecursive:
		return invalid("mount options conflict: !ReadOnly && BindOptions.ReadOnlyForceRecursive")
	case o.ReadOnlyNonRecursive && o.ReadOnlyForceRecursive:
		return invalid("mount options conflict: ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive")
	case o.ReadOnlyForceRecursive:
		if !cr.f.RORecursive {
			return invalid("this kernel cannot make a mount read-only recursively (Linux 5.12 can); leave bind-recursive=readonly out")
		}
		m.RORecursive = "force"
	case o.ReadOnlyNonRecursive, cr.api < 44 && s.ReadOnly:
		m.RORecursive = "off"
	}
	if !m.CreateSource && cr.in.Lookup.Exists != nil && !cr.in.Lookup.Exists(m.Source) {
		return invalid("bind source path does not exist: %s", s.Source)
	}
	return nil
}

// ownRoot decides a bind's propagation where none is asked for: private,
// unless the daemon's own directory is seen through it. What the daemon
// unmounts there (volumes) must go from the container too, or it stays busy;
// so it is a slave then, as with Docker.
func (cr *creation) ownRoot(m *model.Mount) error {
	if m.Type != "bind" {
		return nil
	}
	root := cr.d.DataRoot
	within := root != "" && (m.Source == root || strings.HasPrefix(m.Source, root+"/") || m.Source == "/" || strings.HasPrefix(root, m.Source+"/"))
	switch {
	case m.Propagation == "" && within:
		m.Propagation = "rslave"
	case m.Propagation == "":
		m.Propagation = "rprivate"
	case within && m.Propagation != "rslave" && m.Propagation != "rshared":
		return invalid(`invalid mount config: must use either propagation mode "rslave" or "rshared" when mount source is within the daemon root, daemon root: %q, bind mount source: %q, propagation: %q`, root, m.Source, m.Propagation)
	}
	return nil
}

// imageSpec resolves the image now: what its name means later does not matter.
// As with Docker such a mount is always read-only.
func (cr *creation) imageSpec(m model.Mount, s mount.Mount) (model.Mount, error) {
	bad := func(why string) (model.Mount, error) {
		return model.Mount{}, invalid("invalid mount config for type %q: %s", s.Type, why)
	}
	if cr.api < 48 {
		return model.Mount{}, invalid(`Mount type "Image" needs API v1.48 or newer`)
	}
	if s.Source == "" {
		return bad("field Source must not be empty")
	}
	if o := s.ImageOptions; o != nil && o.Subpath != "" {
		if !filepath.IsLocal(o.Subpath) || strings.ContainsRune(o.Subpath, 0) {
			return bad("subpath must be a relative path within the volume")
		}
		m.Subpath = path.Clean(o.Subpath)
	}
	if cr.in.Lookup.Image == nil {
		return model.Mount{}, notImplemented("mount type %q (image %s at %s) is not there in this daemon", s.Type, s.Source, m.Destination)
	}
	img, err := cr.in.Lookup.Image(s.Source)
	if err != nil {
		return model.Mount{}, err
	}
	m.Name, m.Image, m.ReadOnly, m.Propagation = s.Source, &img, true, "rprivate"
	return m, nil
}

func volumeSpec(m *model.Mount, s mount.Mount) error {
	m.Name = s.Source
	o := s.VolumeOptions
	if o == nil {
		return nil
	}
	m.NoCopy, m.Subpath, m.Labels = o.NoCopy, o.Subpath, o.Labels
	if o.DriverConfig != nil {
		m.Driver, m.DriverOptions = o.DriverConfig.Name, o.DriverConfig.Options
	}
	if o.Subpath != "" {
		if s.Source == "" {
			return invalid("must not set Subpath when using anonymous volumes")
		}
		if !filepath.IsLocal(o.Subpath) {
			return invalid("subpath must be a relative path within the volume")
		}
	}
	return nil
}
