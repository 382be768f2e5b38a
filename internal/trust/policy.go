package trust

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
)

// Demand is what a rule wants of images.
type Demand string

// What a rule can want.
const (
	Accept Demand = "accept" // nothing
	Signed Demand = "signed" // a signature by one of the rule's keys
	Refuse Demand = "refuse" // they are not taken
)

// Rule is what the policy says about a repository and those below it.
type Rule struct {
	Prefix string // "" for the default
	Demand Demand
	Keys   []PublicKey
	// AnyRepository takes a signature that was made for another repository:
	// for mirrors and copies.
	AnyRepository bool
}

// Policy says which images may come from outside. The zero value and nil
// accept all.
type Policy struct {
	File     string
	rules    []Rule // longest prefix first
	fallback Rule
	archives Demand
}

// For is the rule for a repository such as "docker.io/library/debian".
func (p *Policy) For(repository string) Rule {
	if p == nil {
		return Rule{Demand: Accept}
	}
	for _, r := range p.rules {
		if repository == r.Prefix || strings.HasPrefix(repository, r.Prefix+"/") {
			return r
		}
	}
	return p.fallback
}

// Archives reports whether what comes without a registry (load, import, copies from other
// engines) may have names that a rule is about.
func (p *Policy) Archives() bool { return p == nil || p.archives == Accept }

// Idle reports whether nothing is ever refused.
func (p *Policy) Idle() bool {
	return p == nil || p.fallback.Demand == Accept && !slices.ContainsFunc(p.rules, func(r Rule) bool { return r.Demand != Accept })
}

// policyFile is the file's form.
type policyFile struct {
	Default      *ruleFile           `json:"default"`
	Repositories map[string]ruleFile `json:"repositories"`
	Archives     Demand              `json:"archives"`
}

type ruleFile struct {
	Images   Demand   `json:"images"`
	Keys     []string `json:"keys"`
	Identity string   `json:"identity"`
}

// maxPolicy bounds the file.
const maxPolicy = 1 << 20

// ReadPolicy reads the file and the keys that it names. Names of key files
// are relative to its directory.
func ReadPolicy(file string) (*Policy, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("trust policy: %w", err)
	}
	p, err := parsePolicy(text, func(name string) ([]byte, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(file), name)
		}
		return os.ReadFile(name)
	})
	if err != nil {
		return nil, fmt.Errorf("trust policy %s: %w", file, err)
	}
	p.File = file
	return p, nil
}

func parsePolicy(text []byte, read func(string) ([]byte, error)) (*Policy, error) {
	if len(text) > maxPolicy {
		return nil, fmt.Errorf("it has %d bytes, more than %d", len(text), maxPolicy)
	}
	var f policyFile
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, fmt.Errorf("more than one JSON object")
	}
	p := &Policy{fallback: Rule{Demand: Accept}, archives: Refuse}
	switch f.Archives {
	case "":
	case Accept, Refuse:
		p.archives = f.Archives
	default:
		return nil, fmt.Errorf("archives: %q: want accept or refuse", f.Archives)
	}
	if f.Default != nil {
		r, err := f.Default.rule("default", read)
		if err != nil {
			return nil, err
		}
		p.fallback = r
	}
	for name, rf := range f.Repositories {
		r, err := rf.rule(name, read)
		if err != nil {
			return nil, err
		}
		if r.Prefix, err = prefix(name); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(p.rules, func(o Rule) bool { return o.Prefix == r.Prefix }) {
			return nil, fmt.Errorf("repositories: two rules for %s", r.Prefix)
		}
		p.rules = append(p.rules, r)
	}
	slices.SortFunc(p.rules, func(a, b Rule) int { return len(b.Prefix) - len(a.Prefix) })
	return p, nil
}

// prefix is a registry, or a repository's name in its full form; "debian"
// would be read as a registry by one and as Docker Hub's by another.
func prefix(name string) (string, error) {
	host, path, ok := strings.Cut(strings.TrimSuffix(name, "/"), "/")
	if host != "localhost" && !strings.ContainsAny(host, ".:") {
		return "", fmt.Errorf("repositories: %q: begin with the registry, as docker.io/library/debian or registry.example:5000", name)
	}
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		host = "docker.io"
	}
	full := host
	if ok {
		full += "/" + path
	}
	check := full
	if !ok || host == "docker.io" && !strings.Contains(path, "/") {
		check = full + "/x"
	}
	n, err := reference.ParseNamed(check)
	if err != nil || !reference.IsNameOnly(n) {
		return "", fmt.Errorf("repositories: %q is no name of a repository (without tag)", name)
	}
	return full, nil
}

func (f ruleFile) rule(name string, read func(string) ([]byte, error)) (Rule, error) {
	r := Rule{Demand: f.Images}
	switch f.Identity {
	case "", "repository":
	case "any":
		r.AnyRepository = true
	default:
		return r, fmt.Errorf("%s: identity %q: want repository (the signature names the repository) or any", name, f.Identity)
	}
	switch f.Images {
	case Signed:
		if len(f.Keys) == 0 {
			return r, fmt.Errorf("%s: images must be signed, but no keys are named", name)
		}
	case Accept, Refuse:
		if len(f.Keys) > 0 || f.Identity != "" {
			return r, fmt.Errorf("%s: keys and identity mean something with \"images\": \"signed\" only", name)
		}
	default:
		return r, fmt.Errorf("%s: images %q: want accept, signed or refuse", name, f.Images)
	}
	for _, file := range f.Keys {
		text, err := read(file)
		if err != nil {
			return r, fmt.Errorf("%s: %w", name, err)
		}
		keys, err := PublicKeys(text, file)
		if err != nil {
			return r, fmt.Errorf("%s: %w", name, err)
		}
		r.Keys = append(r.Keys, keys...)
	}
	return r, nil
}
