package dockerapi

import (
	"context"
	"net/http"

	"github.com/moby/moby/api/types/registry"

	"wharf/internal/model"
)

// ImageTrust is signatures of images in registries: the endpoints below
// /wharf/v1/trust. Private keys never come here; the client signs.
type ImageTrust interface {
	// RemoteImage says what a name means at its registry now.
	RemoteImage(ctx context.Context, ref string, auth *registry.AuthConfig) (model.RemoteImage, error)
	// AddSignature puts a signature beside ref, which is NAME@DIGEST.
	AddSignature(ctx context.Context, ref string, sig model.ImageSignature, auth *registry.AuthConfig) error
	// Verify lists the good signatures; none is an error.
	Verify(ctx context.Context, ref string, k model.ImageKeys, auth *registry.AuthConfig) (model.ImageVerification, error)
}

func (s *server) trustMux() *http.ServeMux {
	return s.ownMux(map[string]handler{
		"GET /wharf/v1/trust/image":       s.trustImage,
		"POST /wharf/v1/trust/signatures": s.trustSign,
		"POST /wharf/v1/trust/verify":     s.trustVerify,
	})
}

func (s *server) trustImage(c *call) error {
	img, err := s.ImageTrust.RemoteImage(c.ctx(), c.get("image"), c.registryAuth())
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, img)
}

func (s *server) trustSign(c *call) error {
	var sig model.ImageSignature
	if err := c.body(&sig); err != nil {
		return err
	}
	if err := s.ImageTrust.AddSignature(c.ctx(), c.get("image"), sig, c.registryAuth()); err != nil {
		return err
	}
	return c.done(http.StatusCreated)
}

func (s *server) trustVerify(c *call) error {
	var k model.ImageKeys
	if err := c.body(&k); err != nil {
		return err
	}
	v, err := s.ImageTrust.Verify(c.ctx(), c.get("image"), k, c.registryAuth())
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, v)
}
