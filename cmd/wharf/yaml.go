package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// yamlMap is a mapping with an order. Values: string, bool, int64, []string,
// []yamlMap, yamlMap.
type yamlMap []yamlEntry

type yamlEntry struct {
	key   string
	value any
}

// set adds a value unless it is empty.
func (m *yamlMap) set(key string, v any) {
	switch x := v.(type) {
	case string:
		if x == "" {
			return
		}
	case bool:
		if !x {
			return
		}
	case int64:
		if x == 0 {
			return
		}
	case []string:
		if len(x) == 0 {
			return
		}
	case []yamlMap:
		if len(x) == 0 {
			return
		}
	case map[string]string:
		if len(x) == 0 {
			return
		}
		var inner yamlMap
		for _, k := range slices.Sorted(maps.Keys(x)) {
			inner = append(inner, yamlEntry{k, x[k]})
		}
		v = inner
	case yamlMap:
		if len(x) == 0 {
			return
		}
	}
	*m = append(*m, yamlEntry{key, v})
}

// empty adds a key with nothing behind it: a network without options.
func (m *yamlMap) empty(key string) { *m = append(*m, yamlEntry{key, nil}) }

// plainYAML is a text that needs no quotes: it reads as nothing but itself.
var plainYAML = regexp.MustCompile(`^[A-Za-z_/][A-Za-z0-9_./@-]*(:[A-Za-z0-9_./@-]+)*$`)

// words that YAML reads as something else.
var notPlain = []string{"y", "n", "yes", "no", "on", "off", "true", "false", "null"}

// yamlText writes a string, with Compose's variables taken for text.
func yamlText(s string) string {
	s = strings.ReplaceAll(s, "$", "$$")
	if plainYAML.MatchString(s) && !slices.Contains(notPlain, strings.ToLower(s)) {
		return s
	}
	b, _ := json.Marshal(s) // a string is always JSON, and that is YAML
	return string(b)
}

func (m yamlMap) write(b *strings.Builder, indent string) {
	for _, e := range m {
		fmt.Fprintf(b, "%s%s:", indent, yamlText(e.key))
		writeYAML(b, e.value, indent)
	}
}

// writeYAML writes what stands behind a key.
func writeYAML(b *strings.Builder, v any, indent string) {
	switch x := v.(type) {
	case nil:
		b.WriteString(" {}\n")
	case string:
		b.WriteString(" " + yamlText(x) + "\n")
	case bool, int64:
		fmt.Fprintf(b, " %v\n", x)
	case []string:
		b.WriteString("\n")
		for _, s := range x {
			fmt.Fprintf(b, "%s  - %s\n", indent, yamlText(s))
		}
	case []yamlMap:
		b.WriteString("\n")
		for _, m := range x {
			var inner strings.Builder
			m.write(&inner, indent+"    ")
			b.WriteString(indent + "  - " + strings.TrimPrefix(inner.String(), indent+"    "))
		}
	case yamlMap:
		b.WriteString("\n")
		x.write(b, indent+"  ")
	}
}
