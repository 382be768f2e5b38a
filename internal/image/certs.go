package image

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"wharf/internal/model"
)

// checkCerts looks for halves of pairs in a registry's directory of Docker's
// form: the library that reads it says of them only that a certificate is no
// key. With a hosts.toml that file says what is read.
func checkCerts(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "hosts.toml")); err == nil || dir == "" {
		return nil
	}
	es, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, e := range es {
		there[e.Name()] = true
	}
	for name := range there {
		if base, ok := strings.CutSuffix(name, ".key"); ok && !there[base+".cert"] {
			return model.Refuse(errdefs.ErrFailedPrecondition, "%s is there, but its certificate %s is missing", filepath.Join(dir, name), base+".cert")
		}
		base, ok := strings.CutSuffix(name, ".cert")
		if !ok || there[base+".key"] {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("client certificate: %w", err)
		}
		if !bytes.Contains(b, []byte("PRIVATE KEY-----")) { // both may stand in one file
			return model.Refuse(errdefs.ErrFailedPrecondition, "%s is there, but its key %s is missing (a certificate of an authority is called *.crt)", filepath.Join(dir, name), base+".key")
		}
	}
	return nil
}
