package dockerapi

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// fieldRow is a field of Docker's API, or a parameter of an endpoint, as
// swagger.yaml has it.
type fieldRow struct{ section, name, typ string }

// parameterSection heads the table of what is not in a body.
const parameterSection = "Parameters"

// notOurs are the endpoints and definitions that concern more than one host,
// or plugins. HostConfig and ContainerConfig have their own tables.
var (
	notOurs     = []string{"/swarm", "/plugins", "/nodes", "/services", "/tasks", "/secrets", "/configs", "/session"}
	otherTables = []string{"SwarmInfo", "ClusterVolume", "ClusterVolumeSpec", "HostConfig", "ContainerConfig", "Resources"}
)

type swagger struct {
	definitions map[string]any
	rows        []fieldRow
	wanted      []string // definitions that a body speaks of, in order
}

type tree = map[string]any

// swaggerRows lists every field and parameter that concerns a single host.
func swaggerRows(t *testing.T) []fieldRow {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/moby/moby/api").Output()
	if err != nil {
		t.Skip("the go command cannot say where the module with swagger.yaml is: ", err)
	}
	raw, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "swagger.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths       map[string]map[string]any
		Definitions map[string]any
	}
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	s := &swagger{definitions: doc.Definitions}
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		if slices.ContainsFunc(notOurs, func(p string) bool { return strings.HasPrefix(path, p) }) {
			continue
		}
		for _, method := range slices.Sorted(maps.Keys(doc.Paths[path])) {
			s.operation(strings.ToUpper(method)+" "+plainPath(path), doc.Paths[path][method].(tree))
		}
	}
	for _, name := range otherTables[len(otherTables)-3:] { // what their fields are made of stands here
		s.schema("", "", s.definitions[name].(tree))
	}
	s.rows = slices.DeleteFunc(s.rows, func(r fieldRow) bool { return r.section == "" })
	for i := 0; i < len(s.wanted); i++ { // grows
		name := s.wanted[i]
		s.schema(name, "", s.definitions[name].(tree))
	}
	slices.SortStableFunc(s.rows, func(a, b fieldRow) int {
		return boolInt(a.section != parameterSection) - boolInt(b.section != parameterSection)
	})
	return s.rows
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// plainPath writes parameters as the tables do.
func plainPath(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if strings.HasPrefix(p, "{") {
			parts[i] = "{}"
		}
	}
	return strings.Join(parts, "/")
}

func (s *swagger) operation(name string, op tree) {
	params, _ := op["parameters"].([]any)
	for _, p := range params {
		p := p.(tree)
		switch p["in"] {
		case "path":
		case "body":
			if schema, ok := p["schema"].(tree); ok {
				s.body(name+", request", schema)
			}
		default:
			s.rows = append(s.rows, fieldRow{parameterSection, name + " " + p["name"].(string), p["in"].(string)})
		}
	}
	answers, _ := op["responses"].(tree)
	for _, code := range slices.Sorted(maps.Keys(answers)) {
		a := answers[code]
		if schema, ok := a.(tree)["schema"].(tree); ok && strings.HasPrefix(code, "2") {
			s.body(name+", answer", schema)
		}
	}
}

// body has a section of its own, unless it is nothing but a definition.
func (s *swagger) body(section string, schema tree) {
	for schema["type"] == "array" {
		schema = schema["items"].(tree)
	}
	if s.ref(schema) == "" {
		s.schema(section, "", schema)
	}
}

// ref returns the definition that schema refers to, and has it listed.
func (s *swagger) ref(schema tree) string {
	r, _ := schema["$ref"].(string)
	name := strings.TrimPrefix(r, "#/definitions/")
	if name == "" || slices.Contains(otherTables, name) {
		return name
	}
	if !slices.Contains(s.wanted, name) {
		s.wanted = append(s.wanted, name)
	}
	return name
}

// schema lists the fields of one object below prefix.
func (s *swagger) schema(section, prefix string, schema tree) {
	if all, ok := schema["allOf"].([]any); ok {
		for _, part := range all {
			part := part.(tree)
			if name := strings.TrimPrefix(str(part["$ref"]), "#/definitions/"); name != "" && !slices.Contains(otherTables, name) {
				part = s.definitions[name].(tree)
			}
			s.schema(section, prefix, part)
		}
	}
	props, _ := schema["properties"].(tree)
	for _, name := range slices.Sorted(maps.Keys(props)) {
		field, typ := props[name].(tree), ""
		inner, path := field, prefix+name
		for {
			if items, ok := inner["items"].(tree); ok {
				inner, typ, path = items, typ+"[]", path+"[]"
			} else if more, ok := inner["additionalProperties"].(tree); ok {
				inner, typ, path = more, typ+"{}", path+"{}"
			} else {
				break
			}
		}
		if all, ok := inner["allOf"].([]any); ok && inner["properties"] == nil && len(all) == 1 {
			inner = all[0].(tree)
		}
		kind := s.ref(inner)
		if kind == "" {
			kind = str(inner["type"])
		}
		row := fieldRow{section, prefix + name, typ + kind}
		if !slices.Contains(s.rows, row) {
			s.rows = append(s.rows, row)
		}
		s.schema(section, path+".", inner)
	}
}

func str(v any) string { s, _ := v.(string); return s }
