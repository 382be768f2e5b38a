package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/mount"

	"wharf/internal/model"
)

// tmpfsBase is what a tmpfs is mounted with unless its options say otherwise.
var tmpfsBase = []string{"noexec", "nosuid", "nodev", "rprivate"}

// opposite pairs flags of mount(8) of which the later one counts.
var opposite = map[string]string{
	"exec": "noexec", "noexec": "exec", "suid": "nosuid", "nosuid": "suid", "dev": "nodev", "nodev": "dev",
	"rw": "ro", "ro": "rw", "sync": "async", "async": "sync", "dirsync": "", "mand": "nomand", "nomand": "mand",
	"atime": "noatime", "noatime": "atime", "diratime": "nodiratime", "nodiratime": "diratime",
	"relatime": "norelatime", "norelatime": "relatime", "strictatime": "nostrictatime", "nostrictatime": "strictatime",
	"bind": "", "rbind": "", "remount": "", "defaults": "",
	"private": "", "rprivate": "", "shared": "", "rshared": "", "slave": "", "rslave": "", "unbindable": "", "runbindable": "",
}

// refused are words that opposite knows and that make no sense for a tmpfs.
var refused = []string{"bind", "rbind", "remount", "mand"}

// tmpfsKeys are the options of tmpfs(5) that take a value.
var tmpfsKeys = []string{"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol", "huge"}

// tmpfsMount reads one entry of HostConfig.Tmpfs (--tmpfs).
func tmpfsMount(dest, options string) (model.Mount, error) {
	target, err := cleanTarget(dest)
	if err != nil {
		return model.Mount{}, err
	}
	var words []string
	if options != "" {
		words = strings.Split(options, ",")
	}
	m := model.Mount{Type: "tmpfs", Destination: target}
	if m.Options, err = mergeTmpfs(words); err != nil {
		return model.Mount{}, err
	}
	m.ReadOnly = slices.Contains(m.Options, "ro")
	return m, nil
}

// mergeTmpfs puts words over the base. Of opposite flags and of equal keys the
// last one counts.
func mergeTmpfs(words []string) ([]string, error) {
	out := slices.Clone(tmpfsBase)
	drop := func(match func(string) bool) { out = slices.DeleteFunc(out, match) }
	for _, w := range words {
		key, value, isPair := strings.Cut(w, "=")
		if isPair {
			if !slices.Contains(tmpfsKeys, key) || value == "" {
				return nil, invalid("Invalid tmpfs option %q; known are %s and flags as noexec", w, strings.Join(tmpfsKeys, ", "))
			}
			drop(func(have string) bool { return strings.HasPrefix(have, key+"=") })
			out = append(out, w)
			continue
		}
		against, known := opposite[w]
		if !known || slices.Contains(refused, w) {
			return nil, invalid("Invalid tmpfs option %q; known are %s and flags as noexec", w, strings.Join(tmpfsKeys, ", "))
		}
		if w == "defaults" {
			continue
		}
		isPropagation := slices.Contains(propagations, w)
		drop(func(have string) bool {
			return have == w || against != "" && have == against || isPropagation && slices.Contains(propagations, have)
		})
		out = append(out, w)
	}
	return out, nil
}

// tmpfsSpec reads a --mount type=tmpfs.
func tmpfsSpec(m *model.Mount, s mount.Mount) error {
	if s.Source != "" {
		return invalid("field Source must not be specified")
	}
	var words []string
	if s.ReadOnly {
		words = append(words, "ro")
	}
	if o := s.TmpfsOptions; o != nil {
		if o.SizeBytes < 0 {
			return invalid("size %d must not be negative", o.SizeBytes)
		}
		if o.Mode != 0 {
			words = append(words, fmt.Sprintf("mode=%o", uint32(o.Mode)))
		}
		if o.SizeBytes != 0 {
			words = append(words, "size="+strconv.FormatInt(o.SizeBytes, 10))
		}
		for _, opt := range o.Options {
			if len(opt) < 1 || len(opt) > 2 {
				return invalid("invalid option array length")
			}
			if opt[0] != "exec" && opt[0] != "noexec" || len(opt) == 2 {
				return invalid("invalid option: %s", strings.Join(opt, "="))
			}
			words = append(words, opt[0])
		}
	}
	var err error
	m.Options, err = mergeTmpfs(words)
	return err
}
