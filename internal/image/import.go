package image

import (
	"archive/tar"
	"bufio"
	"bytes"
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
	if err == nil {
		err = s.unsignable(name, "import")
	}
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

// importLayer stores the tar as it came, gzip or zstd or not compressed; only
// what no image may hold (bzip2) is compressed anew.
func (s *Store) importLayer(ctx context.Context, r io.Reader) (ocispec.Descriptor, digest.Digest, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, _ := br.Peek(4)
	mt := ocispec.MediaTypeImageLayer
	switch {
	case bytes.HasPrefix(head, magicGzip):
		mt = ocispec.MediaTypeImageLayerGzip
	case bytes.HasPrefix(head, magicZstd):
		mt = ocispec.MediaTypeImageLayerZstd
	case bytes.HasPrefix(head, magicBzip2):
		z, err := decompress(br)
		if err != nil {
			return ocispec.Descriptor{}, "", err
		}
		return s.writeLayer(ctx, compressed, func(w io.Writer) error { return readTar(io.TeeReader(z, w)) })
	}
	return s.writeLayer(ctx, mt, func(w io.Writer) error {
		lw := w.(*layerWriter)
		z, err := decompress(io.TeeReader(br, lw.blob))
		if err != nil {
			return err
		}
		defer z.Close()
		return readTar(io.TeeReader(z, lw.plain.Hash()))
	})
}

// readTar reads a whole tar and what follows it: what is no tar is refused
// here and not by whoever unpacks it later.
func readTar(r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		_, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break // also of nothing at all, which Docker imports as an empty image
		}
		if err != nil {
			return model.Refuse(errdefs.ErrInvalidArgument, "not a whole tar archive: %w", err)
		}
	}
	_, err := io.Copy(io.Discard, r)
	return err
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
		return "", model.Refuse(errdefs.ErrInvalidArgument, "cannot import digest reference %s", repo)
	}
	return n.String(), nil
}

func (s *Store) importConfig(changes []string) (*container.Config, error) {
	if len(changes) == 0 {
		return &container.Config{}, nil
	}
	if s.opts.Changes == nil {
		return nil, model.Refuse(errdefs.ErrNotImplemented, "import with changes (%q)", changes[0])
	}
	return s.opts.Changes(&container.Config{}, changes)
}

// hostPlatform is p, with what it leaves open taken from this machine.
func hostPlatform(p *ocispec.Platform) ocispec.Platform {
	host := platforms.DefaultSpec()
	if p == nil || p.OS == "" && p.Architecture == "" {
		return host
	}
	out := *p
	if out.OS == "" {
		out.OS = host.OS
	}
	if out.Architecture == "" {
		out.Architecture, out.Variant = host.Architecture, host.Variant
	}
	return platforms.Normalize(out)
}
