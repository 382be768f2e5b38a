package boot

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"

	"github.com/u-root/u-root/pkg/cpio"
)

func gzipReader(data []byte) (io.Reader, error) { return gzip.NewReader(bytes.NewReader(data)) }

// ModuleList names the modules in the initramfs, a line each, in the order in
// which they are to be loaded. The
// file of a module is ModuleDir/<name>.ko.
const (
	ModuleList = "lib/modules/list"
	ModuleDir  = "lib/modules"
)

// writeInitramfs writes the agent and the modules as cpio newc, uncompressed:
// the kernel unpacks it faster than it could decompress it, and it is read
// from the page cache.
func writeInitramfs(w io.Writer, agent string, modules []module) error {
	files := []cpio.Record{
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1), // the kernel opens it before init could make it
		cpio.CharDev("dev/null", 0o666, 1, 3),
		cpio.Directory("proc", 0o555),
		cpio.Directory("sys", 0o555),
		cpio.Directory("run", 0o755),
		cpio.Directory("tmp", 0o1777),
		cpio.Directory("etc", 0o755),
		cpio.Directory("lib", 0o755),
		cpio.Directory(ModuleDir, 0o755),
	}
	init, err := os.ReadFile(agent)
	if err != nil {
		return fmt.Errorf("the agent: %w", err)
	}
	files = append(files, cpio.StaticFile("init", string(init), 0o755))
	var list []byte
	for _, m := range modules {
		data, err := m.read()
		if err != nil {
			return err
		}
		files = append(files, cpio.StaticFile(ModuleDir+"/"+m.name+".ko", string(data), 0o644))
		list = append(append(list, m.name...), '\n')
	}
	files = append(files, cpio.StaticFile(ModuleList, string(list), 0o644))
	cpio.MakeAllReproducible(files)
	out := cpio.Newc.Writer(w)
	if err := cpio.WriteRecords(out, files); err != nil {
		return err
	}
	return cpio.WriteTrailer(out)
}
