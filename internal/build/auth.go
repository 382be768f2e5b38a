package build

import (
	"context"
	"encoding/base64"
	"strings"

	"github.com/moby/buildkit/session/auth"
	"github.com/moby/moby/api/types/registry"
	"google.golang.org/grpc"
)

// credentials answers BuildKit with those that came with a request.
type credentials struct {
	auth.UnimplementedAuthServer
	all map[string]registry.AuthConfig
}

// Register implements session.Attachable.
func (c *credentials) Register(s *grpc.Server) { auth.RegisterAuthServer(s, c) }

// hubKey is under what Docker's clients keep the credentials of Docker Hub.
const hubKey = "https://index.docker.io/v1/"

// Credentials implements auth.AuthServer. None is no error.
func (c *credentials) Credentials(_ context.Context, q *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	keys := []string{q.Host, "https://" + q.Host, "https://" + q.Host + "/v1/"}
	if q.Host == "registry-1.docker.io" || q.Host == "docker.io" {
		keys = append(keys, hubKey)
	}
	for _, key := range keys {
		a, ok := c.all[key]
		if !ok {
			continue
		}
		if a.IdentityToken != "" {
			return &auth.CredentialsResponse{Secret: a.IdentityToken}, nil
		}
		if a.Username == "" && a.Auth != "" {
			b, _ := base64.StdEncoding.DecodeString(a.Auth)
			a.Username, a.Password, _ = strings.Cut(string(b), ":")
		}
		return &auth.CredentialsResponse{Username: a.Username, Secret: a.Password}, nil
	}
	return &auth.CredentialsResponse{}, nil
}
