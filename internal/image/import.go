package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// Import implements dockerapi.Images: the tar becomes the one layer of a new
// image.
func (s *Store) Import(ctx context.Context, r io.Reader, repo, tag, message string, changes []string, platform *ocispec.Platform, p model.Progress) error {
	name, err := importName(repo, tag)
	if err != nil {
		return err
	}
	dc, err := s.importConfig(changes)
	if err != nil {
		return err
	}
	ctx, done, err := s.lease(ctx, "import")
	if err != nil {
		return err
	}
	defer done()
	layer, diffID, err := s.importLayer(ctx, r)
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	if message == "" {
		message = "Imported from -"
	}
	now := time.Now().UTC()
	img := dockerspec.DockerOCIImage{Config: imageConfig(dc)}
	img.Created, img.Platform = &now, hostPlatform(platform)
	img.RootFS.DiffIDs = []digest.Digest{diffID}
	img.History = []ocispec.History{{Created: &now, Comment: message}}
	target, err := s.build(ctx, ocispec.MediaTypeImageManifest, img, []ocispec.Descriptor{layer})
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	s.names.Lock()
	defer s.names.Unlock()
	shown := familiar(name)
	if name == "" {
		name, shown = danglingName(target.Digest), target.Digest.String()
	}
	if err := s.setName(ctx, name, target, nil); err != nil {
		return err
	}
	newReport(p).status("", "%s", target.Digest)
	s.publish(ctx, events.ActionImport, target.Digest.String(), shown)
	return nil
}

// importLayer stores the tar gzipped, whatever it came in.
func (s *Store) importLayer(ctx context.Context, r io.Reader) (ocispec.Descriptor, digest.Digest, error) {
	z, err := decompress(r)
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	defer z.Close()
	return s.writeLayer(ctx, func(w io.Writer) error {
		// Read through a tar reader: what is no tar is refused here and not
		// by whoever unpacks it later.
		tr := tar.NewReader(io.TeeReader(z, w))
		for {
			_, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return fmt.Errorf("not a whole tar archive: %w: %w", err, errdefs.ErrInvalidArgument)
			}
		}
		_, err := io.Copy(w, z)
		return err
	})
}

func importName(repo, tag string) (string, error) {
	if repo == "" {
		return "", nil
	}
	if tag != "" {
		repo += ":" + tag
	}
	n, err := parseRef(repo)
	if err != nil {
		return "", err
	}
	if strings.Contains(n.String(), "@") {
		return "", fmt.Errorf("cannot import digest reference %s: %w", repo, errdefs.ErrInvalidArgument)
	}
	return n.String(), nil
}

func (s *Store) importConfig(changes []string) (*container.Config, error) {
	if len(changes) == 0 {
		return &container.Config{}, nil
	}
	if s.opts.Changes == nil {
		return nil, fmt.Errorf("import with changes (%q): %w", changes[0], errdefs.ErrNotImplemented)
	}
	return s.opts.Changes(&container.Config{}, changes)
}

// hostPlatform is p, or this machine's.
func hostPlatform(p *ocispec.Platform) ocispec.Platform {
	if p != nil && p.OS != "" && p.Architecture != "" {
		return platforms.Normalize(*p)
	}
	return platforms.DefaultSpec()
}
