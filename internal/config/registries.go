package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"wharf/internal/trust"
)

// checkRegistries brings the registries into the form that the image room
// takes: hosts, host:port or CIDRs; mirrors as URLs. As dockerd, a scheme
// before an insecure registry is dropped.
func (c *Config) checkRegistries() error {
	if c.TrustPolicy != "" {
		var err error
		if c.Trust, err = trust.ReadPolicy(c.TrustPolicy); err != nil {
			return err
		}
	}
	for i, r := range c.InsecureRegistries {
		for _, scheme := range []string{"http://", "https://"} {
			if rest, ok := strings.CutPrefix(r, scheme); ok {
				c.note("insecure registry %s should not contain %q; it was removed", r, scheme)
				r = rest
			}
		}
		if _, err := netip.ParsePrefix(r); err != nil && (r == "" || strings.ContainsAny(r, "/ \t") || strings.HasPrefix(r, "-")) {
			return fmt.Errorf("insecure registry %q is not valid: give a host, host:port or CIDR", r)
		}
		c.InsecureRegistries[i] = r
	}
	for _, m := range c.RegistryMirrors {
		u, err := url.Parse(m)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
			return fmt.Errorf("invalid mirror %q: give a URL, as https://mirror.example:5000", m)
		case u.RawQuery != "" || u.Fragment != "":
			return fmt.Errorf("invalid mirror %q: no query or fragment may stand at its end", m)
		case u.User != nil:
			return fmt.Errorf("invalid mirror %q: no user name or password may stand in it; use `wharf login`", u.Redacted())
		}
	}
	return nil
}
