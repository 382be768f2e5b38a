package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// mayImport is the design's table of rooms (docs/design.md): which packages of
// ours each room may import. A room's own sub-packages are always allowed, and
// they have their room's rights unless they stand here themselves. Changing a
// line is a design change; the commit says so.
var mayImport = map[string][]string{
	"api/frame":      {"internal/lean"},
	"api/monitorapi": {"api/frame"},
	"api/guestapi":   {"api/frame"},

	"internal/model": nil,
	"internal/lean":  nil,
	"internal/undo":  nil,
	// What a writable layer changed: read by the host and, in a VM, by the agent.
	"internal/overlay": nil,
	// Directories of an image, opened by the host and by the agent.
	"internal/inroot": nil,

	// What --log-opt may say is decided by plan and read by the writer.
	"internal/plan":         {"internal/model", "internal/logs/logopts"},
	"internal/logs/logopts": nil,
	"internal/config":       {"internal/model", "internal/logs/logopts", "internal/trust"}, // daemon.json and flags, for cmd/wharfd
	"internal/record":       {"internal/model"},
	"internal/logs":         {"internal/lean", "internal/model"},
	"internal/driver":       {"internal/model"},

	"internal/image/erofs": nil, // a writer of disk images; the VM driver's tests make theirs with it
	"internal/image":       {"internal/model", "internal/overlay", "internal/trust", "internal/undo"},
	"internal/trust":       nil, // keys, signatures, policy: pure
	"internal/build":       {"internal/model", "internal/undo"},
	"internal/registry":    nil, // a program of its own: its libraries stay out of wharfd and wharf
	"internal/network":     {"internal/model", "internal/undo"},
	"internal/volume":      {"internal/inroot", "internal/model", "internal/undo"},
	"internal/archive":     {"internal/model", "internal/undo"},
	"internal/host":        {"internal/model", "internal/undo"},

	// The performing half stays small: it is in the monitor. The preparing
	// half turns a model.Bundle into the performing half's data.
	"internal/runtime":         {"internal/lean", "internal/undo"},
	"internal/runtime/prepare": {"internal/model", "internal/runtime", "internal/undo"},
	// The suite is part of the contract; it makes bundles and the namespaces
	// that they need.
	"internal/driver/drivertest": {"internal/driver", "internal/model"},
	// What drivers have in common that run instances through a holding process.
	"internal/driver/held":   {"api/frame", "api/monitorapi", "internal/driver", "internal/model", "internal/runtime", "internal/undo"},
	"internal/driver/native": {"api/monitorapi", "internal/driver", "internal/driver/held", "internal/model", "internal/runtime", "internal/runtime/prepare", "internal/undo"},
	"internal/driver/qemu": {"api/frame", "api/monitorapi", "api/guestapi", "internal/driver", "internal/driver/held", "internal/model", "internal/runtime",
		"internal/runtime/prepare", "internal/undo", "internal/vmm/vmmapi", "internal/image/erofs"},
	"internal/driver/qemu/accel": nil, // whether this machine's KVM can run a guest
	// Holds one VM, as the monitor holds one container; QEMU itself runs by
	// the runtime.
	"internal/vmm":        {"api/frame", "api/monitorapi", "api/guestapi", "internal/monitor", "internal/runtime", "internal/undo"},
	"internal/vmm/vmmapi": {"api/guestapi", "internal/runtime"}, // what the driver tells it: data

	// The log writer's plan is a model type.
	"internal/monitor": {"api/monitorapi", "internal/lean", "internal/logs", "internal/logs/logopts", "internal/model", "internal/runtime", "internal/undo"},
	"internal/guest":   {"api/guestapi", "internal/archive", "internal/inroot", "internal/model", "internal/overlay", "internal/runtime", "internal/undo"}, // archive's roots are model's

	"internal/lifecycle": {"internal/driver", "internal/model", "internal/plan"},
	"internal/dockerapi": {"internal/model"},

	"internal/archtest": nil,

	"cmd/wharfd":         {"internal", "api"},
	"cmd/wharf":          {"internal/trust"}, // HTTP only; private keys stay on the client's side
	"cmd/wharf-compose":  nil,                // HTTP only
	"cmd/wharf-monitor":  {"internal/monitor", "internal/runtime"},
	"cmd/wharf-logger":   {"internal/logs"},
	"cmd/wharf-registry": {"internal/registry"},
	"cmd/wharf-oci":      {"internal/model", "internal/monitor", "internal/runtime", "internal/runtime/prepare", "internal/undo"},
	"examples":           nil,
	"cmd/wharf-vmm":      {"internal/driver/qemu/accel", "internal/runtime", "internal/vmm"},
	"cmd/wharf-guest":    {"internal/guest", "internal/runtime"},

	// Boots test binaries on another kernel.
	"test/vmtest": {"internal/driver/qemu"},
	"test":        {"internal/model"}, // end to end: from outside, over HTTP and the command line
}

// mayHaveInit lists packages with an init function, each with its reason.
var mayHaveInit = map[string]string{
	"internal/runtime": "the init stage locks the main thread before main runs: its credentials and filter are that thread's",
}

const (
	maxFileLines = 500
	maxFuncLines = 60
)

// longFiles and longFuncs are what may exceed the limits, each with its reason.
// Functions are named "path/file.go:Func" or "path/file.go:Type.Method".
var (
	longFiles = map[string]string{}
	longFuncs = map[string]string{
		"internal/runtime/fork.go:forkRaw": "between a raw clone and execve nothing may be called that could grow the stack or take a lock: it stays in one piece",
	}
)

// source is one parsed file.
type source struct {
	path string // slashes, from the module's root
	file *ast.File
	fset *token.FileSet
}

func (s source) dir() string  { return filepath.ToSlash(filepath.Dir(s.path)) }
func (s source) test() bool   { return strings.HasSuffix(s.path, "_test.go") }
func (s source) lines() int   { return s.fset.File(s.file.FileStart).LineCount() }
func (s source) gen() bool    { return ast.IsGenerated(s.file) }
func (s source) inTest() bool { return s.test() || strings.HasPrefix(s.path, "test/") }

const root = "../.."

// sources parses every Go file of the module.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		all = append(all, source{filepath.ToSlash(rel), f, fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// room is the table's entry that governs a package.
func room(dir string) (string, bool) {
	for d := dir; d != "."; d = filepath.ToSlash(filepath.Dir(d)) {
		if _, ok := mayImport[d]; ok {
			return d, true
		}
	}
	return "", false
}

func under(dir, prefix string) bool {
	return dir == prefix || strings.HasPrefix(dir, prefix+"/")
}

// allowed says whether a package in dir may import the package of ours at target.
func allowed(dir, target string) bool {
	r, ok := room(dir)
	if !ok {
		return false
	}
	if under(target, r) {
		return true
	}
	tr, _ := room(target)
	for _, a := range mayImport[r] {
		// "internal" and "api" stand for everything below; otherwise a room
		// does not open its separately listed parts.
		if a == tr || (a == "internal" || a == "api") && under(target, a) {
			return true
		}
	}
	return false
}

func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		if _, ok := room(s.dir()); !ok {
			t.Errorf("%s: %s is in no room; add it to mayImport and to docs/design.md", s.path, s.dir())
			continue
		}
		if s.test() {
			continue // tests may wire fakes and rooms together
		}
		for _, imp := range s.file.Imports {
			target, ours := strings.CutPrefix(strings.Trim(imp.Path.Value, `"`), "wharf/")
			if ours && !allowed(s.dir(), target) {
				r, _ := room(s.dir())
				t.Errorf("%s imports %s; %s may import %v", s.path, target, r, mayImport[r])
			}
		}
	}
}

func TestNoCgo(t *testing.T) {
	for _, s := range sources(t) {
		for _, imp := range s.file.Imports {
			if imp.Path.Value == `"C"` {
				t.Errorf("%s uses cgo", s.path)
			}
		}
	}
}

func TestPackageComments(t *testing.T) {
	has, dirs := map[string]bool{}, map[string]bool{}
	for _, s := range sources(t) {
		if s.test() && !under(s.dir(), "test") && !under(s.dir(), "internal/archtest") {
			continue
		}
		dirs[s.dir()] = true
		if s.file.Doc != nil && len(strings.Fields(s.file.Doc.Text())) >= 8 {
			has[s.dir()] = true
		}
	}
	for d := range dirs {
		if !has[d] {
			t.Errorf("%s has no package comment that says what it owns", d)
		}
	}
}

func TestNoInit(t *testing.T) {
	for _, s := range sources(t) {
		if s.test() || !under(s.dir(), "internal") || mayHaveInit[s.dir()] != "" {
			continue
		}
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s has an init function: cmd/wharfd wires, nothing registers itself", s.path)
			}
		}
	}
}

func TestSizes(t *testing.T) {
	used := map[string]bool{}
	for _, s := range sources(t) {
		if s.gen() || s.inTest() {
			continue
		}
		if n := s.lines(); n > maxFileLines {
			used[s.path] = true
			if longFiles[s.path] == "" {
				t.Errorf("%s has %d lines, more than %d: split it, or list it with a reason", s.path, n, maxFileLines)
			}
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1
			if name := s.path + ":" + funcName(f); n > maxFuncLines {
				used[name] = true
				if longFuncs[name] == "" {
					t.Errorf("%s has %d lines, more than %d: split it, or list it with a reason", name, n, maxFuncLines)
				}
			}
		}
	}
	for _, list := range []map[string]string{longFiles, longFuncs} {
		for name := range list {
			if !used[name] {
				t.Errorf("%s is listed as too long and is not: take it off the list", name)
			}
		}
	}
}

func funcName(f *ast.FuncDecl) string {
	if f.Recv == nil || len(f.Recv.List) == 0 {
		return f.Name.Name
	}
	typ := f.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if ix, ok := typ.(*ast.IndexExpr); ok {
		typ = ix.X
	}
	return fmt.Sprintf("%s.%s", typ, f.Name.Name)
}

// TestNames keeps words that say nothing out of package names.
func TestNames(t *testing.T) {
	for _, s := range sources(t) {
		if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "manager", "misc", "base", "v1", "impl"}, s.file.Name.Name) {
			t.Errorf("%s: package %s is named for nothing", s.path, s.file.Name.Name)
		}
	}
}
