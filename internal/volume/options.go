package volume

import (
	"context"
	"fmt"
	"maps"
	stdnet "net"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// checkOptions checks the local driver's options: none, or device and type,
// and what mount(8) takes after -o, or a size, or type=block and a size.
func checkOptions(opts map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(opts)) {
		switch k {
		case "type", "o", "device":
		case "size":
			if _, err := parseSize(opts[k]); err != nil {
				return err
			}
		default:
			return model.Refuse(errdefs.ErrInvalidArgument, "invalid option: %q: the local driver has type, device, o and size", k)
		}
	}
	if opts["type"] == typeBlock {
		return checkBlock(opts)
	}
	if _, sized := opts["size"]; sized && len(opts) == 1 || len(opts) == 0 {
		return nil
	} else if sized {
		return model.Refuse(errdefs.ErrInvalidArgument, "option size: a volume with type and device is as large as what is mounted; limit that, for type=tmpfs with o=size=%s", opts["size"])
	}
	for _, k := range []string{"device", "type"} {
		if opts[k] == "" {
			return model.Refuse(errdefs.ErrInvalidArgument, "missing required option: %q", k)
		}
	}
	if _, _, _, err := mountWords(opts["o"]); err != nil {
		return err
	}
	return nil
}

// mount(8)'s words for mount(2)'s flags; a false value clears the flag.
var words = map[string]struct {
	flag  uintptr
	clear bool
}{
	"defaults": {}, "bind": {flag: unix.MS_BIND}, "rbind": {flag: unix.MS_BIND | unix.MS_REC},
	"ro": {flag: unix.MS_RDONLY}, "rw": {flag: unix.MS_RDONLY, clear: true},
	"nosuid": {flag: unix.MS_NOSUID}, "suid": {flag: unix.MS_NOSUID, clear: true},
	"nodev": {flag: unix.MS_NODEV}, "dev": {flag: unix.MS_NODEV, clear: true},
	"noexec": {flag: unix.MS_NOEXEC}, "exec": {flag: unix.MS_NOEXEC, clear: true},
	"noatime": {flag: unix.MS_NOATIME}, "atime": {flag: unix.MS_NOATIME, clear: true},
	"nodiratime": {flag: unix.MS_NODIRATIME}, "diratime": {flag: unix.MS_NODIRATIME, clear: true},
	"relatime": {flag: unix.MS_RELATIME}, "norelatime": {flag: unix.MS_RELATIME, clear: true},
	"strictatime": {flag: unix.MS_STRICTATIME}, "nostrictatime": {flag: unix.MS_STRICTATIME, clear: true},
	"sync": {flag: unix.MS_SYNCHRONOUS}, "async": {flag: unix.MS_SYNCHRONOUS, clear: true},
	"dirsync": {flag: unix.MS_DIRSYNC}, "mand": {flag: unix.MS_MANDLOCK}, "nomand": {flag: unix.MS_MANDLOCK, clear: true},
}

var propagations = map[string]uintptr{
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC,
	"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC,
	"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
	"unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// mountWords splits -o into flags, propagation and the file system's own part.
func mountWords(o string) (flags, prop uintptr, data []string, err error) {
	for _, w := range strings.Split(o, ",") {
		w = strings.TrimSpace(w)
		f, known := words[w]
		p, isProp := propagations[w]
		switch {
		case w == "":
		case w == "remount" || w == "move":
			return 0, 0, nil, model.Refuse(errdefs.ErrInvalidArgument, "mount option %s makes no sense for a volume", w)
		case isProp:
			prop = p
		case known && f.clear:
			flags &^= f.flag
		case known:
			flags |= f.flag
		default:
			data = append(data, w)
		}
	}
	return flags, prop, data, nil
}

// mountOn mounts what the options describe on dir.
func mountOn(ctx context.Context, opts map[string]string, dir string) error {
	flags, prop, data, err := mountWords(opts["o"])
	if err != nil {
		return err
	}
	typ, device := opts["type"], opts["device"]
	if flags&unix.MS_BIND != 0 {
		typ = ""
	}
	if data, err = resolved(ctx, typ, data); err != nil {
		return err
	}
	if err := unix.Mount(device, dir, typ, flags, strings.Join(data, ",")); err != nil {
		return fmt.Errorf("failed to mount local volume: mount %s (type %s) with %q: %w", device, opts["type"], opts["o"], err)
	}
	// The first call of a bind mount takes no other flags.
	if rest := flags &^ (unix.MS_BIND | unix.MS_REC); flags&unix.MS_BIND != 0 && rest != 0 {
		err = unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|rest, "")
	}
	if err == nil && prop != 0 {
		err = unix.Mount("", dir, "", prop, "")
	}
	if err != nil {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		return fmt.Errorf("failed to mount local volume: options %q of %s: %w", opts["o"], device, err)
	}
	return nil
}

// resolved turns the server's name into an address, which is the business of
// mount.nfs and mount.cifs, not of the kernel.
func resolved(ctx context.Context, typ string, data []string) ([]string, error) {
	if typ != "nfs" && typ != "nfs4" && typ != "cifs" && typ != "smb3" {
		return data, nil
	}
	out := slices.Clone(data)
	for i, w := range out {
		host, ok := strings.CutPrefix(w, "addr=")
		if !ok || stdnet.ParseIP(host) != nil {
			continue
		}
		addrs, err := stdnet.DefaultResolver.LookupIPAddr(ctx, host)
		if err != nil || len(addrs) == 0 {
			return nil, fmt.Errorf("find the address of %s server %s: %w", typ, host, err)
		}
		out[i] = "addr=" + addrs[0].String()
	}
	return out, nil
}

// mounted reports whether something is mounted on dir.
func mounted(dir string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	if err != nil {
		return false, &os.PathError{Op: "statx", Path: dir, Err: err}
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return false, model.Refuse(errdefs.ErrNotImplemented, "the kernel cannot tell mount points (Linux 5.8 can)")
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}
