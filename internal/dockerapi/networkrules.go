package dockerapi

import (
	"context"
	"net/http"
	"strings"

	"wharf/internal/model"
)

// NetworkLimits is the lifecycle where instances' networks are limited.
type NetworkLimits interface {
	NetworkRules(ctx context.Context, ref string) (*model.NetworkLimits, error)
	SetNetworkRules(ctx context.Context, ref string, ch model.NetworkRulesChange) (*model.NetworkLimits, error)
}

// ruledContainer is the name in "/wharf/v1/containers/NAME/network-rules".
func ruledContainer(path string) (string, bool) {
	name, ok := strings.CutPrefix(path, WharfPrefix+"containers/")
	if ok {
		name, ok = strings.CutSuffix(name, "/network-rules")
	}
	return name, ok && name != ""
}

// networkRules shows what an instance may send and receive (GET) or changes
// it (POST, model.NetworkRulesChange) and shows the result.
func (s *server) networkRules(c *call) error {
	switch c.r.Method {
	case http.MethodGet:
		got, err := s.NetworkLimits.NetworkRules(c.ctx(), c.name)
		if err != nil {
			return err
		}
		return c.json(http.StatusOK, got)
	case http.MethodPost:
		var ch model.NetworkRulesChange
		if err := c.body(&ch); err != nil {
			return err
		}
		got, err := s.NetworkLimits.SetNetworkRules(c.ctx(), c.name, ch)
		if err != nil {
			return err
		}
		return c.json(http.StatusOK, got)
	}
	return &statusError{http.StatusMethodNotAllowed, "network-rules has GET and POST"}
}
