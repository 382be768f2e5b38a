package image

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// Limits on the JSON documents of an image. Registries accept manifests up to
// 4 MiB; a configuration grows with its history.
const (
	maxManifest = 4 << 20
	maxConfig   = 8 << 20
	maxLayers   = 500 // overlayfs takes no more lower directories
)

// attestation marks, as annotation of an index entry, what is not an image.
const attestation = "vnd.docker.reference.type"

// document is any of an index or a manifest; which one it is follows from its
// media type, and a blob that is both is refused.
type document struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType,omitempty"`
	ArtifactType  string               `json:"artifactType,omitempty"`
	Manifests     []ocispec.Descriptor `json:"manifests,omitempty"`
	Config        ocispec.Descriptor   `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers,omitempty"`
	Annotations   map[string]string    `json:"annotations,omitempty"`
	Subject       *ocispec.Descriptor  `json:"subject,omitempty"`
	FSLayers      json.RawMessage      `json:"fsLayers,omitempty"`
}

// readJSON reads a blob of at most limit bytes.
func readBlob(ctx context.Context, p content.Provider, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	ra, err := p.ReaderAt(ctx, ocispec.Descriptor{Digest: desc.Digest})
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	if ra.Size() > limit {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "%s has %d bytes, more than the %d allowed", desc.Digest, ra.Size(), limit)
	}
	b := make([]byte, ra.Size())
	if n, err := ra.ReadAt(b, 0); err != nil && n != len(b) {
		return nil, err
	}
	return b, nil
}

// readDocument reads and checks an index or manifest.
func readDocument(ctx context.Context, p content.Provider, desc ocispec.Descriptor) (document, error) {
	b, err := readBlob(ctx, p, desc, maxManifest)
	if err != nil {
		return document{}, err
	}
	return parseDocument(b, desc)
}

// parseDocument checks that b is what desc says it is, so that no two readers
// can see two images in one blob.
func parseDocument(b []byte, desc ocispec.Descriptor) (document, error) {
	bad := func(format string, args ...any) (document, error) {
		return document{}, model.Refuse(errdefs.ErrInvalidArgument, "manifest %s: %s", desc.Digest, fmt.Sprintf(format, args...))
	}
	var d document
	if err := json.Unmarshal(b, &d); err != nil {
		return bad("%v", err)
	}
	if len(d.FSLayers) > 0 || d.SchemaVersion == 1 {
		return bad("schema 1 manifests are no longer supported; rebuild the image or push it with a newer client")
	}
	isIndex := images.IsIndexType(desc.MediaType)
	switch {
	case !isIndex && !images.IsManifestType(desc.MediaType):
		return bad("unknown media type %q", desc.MediaType)
	case d.MediaType != "" && d.MediaType != desc.MediaType:
		return bad("it says %q and is listed as %q", d.MediaType, desc.MediaType)
	case isIndex && (len(d.Layers) > 0 || d.Config.Digest != ""):
		return bad("an index with layers")
	case !isIndex && len(d.Manifests) > 0:
		return bad("a manifest with manifests")
	case len(d.Layers) > maxLayers:
		return bad("%d layers, more than %d", len(d.Layers), maxLayers)
	}
	check := append(append([]ocispec.Descriptor{}, d.Manifests...), d.Layers...)
	if !isIndex {
		check = append(check, d.Config)
	}
	for _, c := range check {
		if err := c.Digest.Validate(); err != nil {
			return bad("digest %q: %v", c.Digest, err)
		}
		if c.Size < 0 {
			return bad("%s: size %d", c.Digest, c.Size)
		}
	}
	return d, nil
}

// guessType tells the media type of an index or manifest whose descriptor is
// not at hand.
func guessType(b []byte) string {
	var d document
	if json.Unmarshal(b, &d) != nil {
		return ""
	}
	switch {
	case d.MediaType != "":
		return d.MediaType
	case d.Config.Digest != "":
		return ocispec.MediaTypeImageManifest
	default:
		return ocispec.MediaTypeImageIndex
	}
}

// isImage tells an image's entry in an index from an attestation or artifact.
func isImage(d ocispec.Descriptor) bool {
	if d.Annotations[attestation] != "" || (d.Platform != nil && d.Platform.OS == "unknown") {
		return false
	}
	return images.IsManifestType(d.MediaType) || images.IsIndexType(d.MediaType)
}

// config is an image's configuration with what is derived from it.
type config struct {
	dockerspec.DockerOCIImage
	raw    []byte
	chains []digest.Digest // chain id of each layer, bottom first
}

func (c *config) platform() ocispec.Platform {
	return platforms.Normalize(c.Platform)
}

// chain is the key of the unpacked top layer, "" when there are no layers.
func (c *config) chain() digest.Digest {
	if len(c.chains) == 0 {
		return ""
	}
	return c.chains[len(c.chains)-1]
}

// readConfig reads and checks the configuration of manifest m.
func readConfig(ctx context.Context, p content.Provider, m document) (*config, error) {
	b, err := readBlob(ctx, p, m.Config, maxConfig)
	if err != nil {
		return nil, err
	}
	return parseConfig(b, m)
}

func parseConfig(b []byte, m document) (*config, error) {
	c := &config{raw: b}
	if err := json.Unmarshal(b, &c.DockerOCIImage); err != nil {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "image configuration %s: %w", m.Config.Digest, err)
	}
	if c.RootFS.Type != "" && c.RootFS.Type != "layers" {
		return nil, model.Refuse(errdefs.ErrNotImplemented, "image configuration %s: root file system of type %q", m.Config.Digest, c.RootFS.Type)
	}
	layers := imageLayers(m)
	if len(c.RootFS.DiffIDs) != len(layers) {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "image configuration %s lists %d layers, its manifest %d", m.Config.Digest, len(c.RootFS.DiffIDs), len(layers))
	}
	for _, d := range c.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return nil, model.Refuse(errdefs.ErrInvalidArgument, "image configuration %s: diff id %q: %w", m.Config.Digest, d, err)
		}
	}
	if len(c.RootFS.DiffIDs) > 0 {
		c.chains = identity.ChainIDs(append([]digest.Digest{}, c.RootFS.DiffIDs...))
	}
	return c, nil
}

// imageLayers are the layers of m that make the root file system.
func imageLayers(m document) []ocispec.Descriptor {
	var ls []ocispec.Descriptor
	for _, l := range m.Layers {
		if images.IsLayerType(l.MediaType) || strings.HasSuffix(l.MediaType, ".tar") {
			ls = append(ls, l)
		}
	}
	return ls
}

// children are the blobs that d refers to.
func (d document) children() []ocispec.Descriptor {
	if len(d.Manifests) > 0 || d.Config.Digest == "" {
		return d.Manifests
	}
	return append([]ocispec.Descriptor{d.Config}, d.Layers...)
}
