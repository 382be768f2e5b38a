package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
	"wharf/internal/overlay"
)

// Commit implements lifecycle's images. config gives the time, author and
// platform (may be nil), dc what containers of the new image inherit.
func (s *Store) Commit(ctx context.Context, id model.ID, parent model.Image, conf *ocispec.Image, dc *container.Config, ref, author, comment string) (digest.Digest, error) {
	return s.commit(ctx, id, parent, conf, dc, ref, author, comment, func(ctx context.Context) (ocispec.Descriptor, digest.Digest, error) {
		r, err := s.Rootfs(ctx, id)
		if err != nil {
			return ocispec.Descriptor{}, "", err
		}
		return s.writeDiff(ctx, r)
	})
}

// CommitLayer is Commit with a layer that somebody else made of the
// container's changes: an uncompressed tar, which may be hostile.
func (s *Store) CommitLayer(ctx context.Context, id model.ID, parent model.Image, conf *ocispec.Image, dc *container.Config, ref, author, comment string, layer io.Reader) (digest.Digest, error) {
	return s.commit(ctx, id, parent, conf, dc, ref, author, comment, func(ctx context.Context) (ocispec.Descriptor, digest.Digest, error) {
		return s.storeTar(ctx, layer)
	})
}

// maxLayer bounds a layer that a guest makes: what its disk can hold, and the
// tar's own blocks.
const maxLayer = writableSize + writableSize/8

// storeTar stores a tar as a gzipped layer. One without an entry is none.
func (s *Store) storeTar(ctx context.Context, layer io.Reader) (ocispec.Descriptor, digest.Digest, error) {
	d, diffID, err := s.writeLayer(ctx, compressed, func(w io.Writer) error {
		in := bufio.NewReader(io.LimitReader(layer, maxLayer+1))
		head, err := in.Peek(1024)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(bytes.Trim(head, "\x00")) == 0 {
			return errNoChange
		}
		n, err := io.Copy(w, in)
		if err == nil && n > maxLayer {
			err = model.Refuse(errdefs.ErrOutOfRange, "the layer is larger than the disk that it was made from")
		}
		return err
	})
	if errors.Is(err, errNoChange) {
		return ocispec.Descriptor{}, "", nil
	}
	return d, diffID, err
}

// commit makes the image with the layer that diff stores; diffID "": none.
func (s *Store) commit(ctx context.Context, id model.ID, parent model.Image, conf *ocispec.Image, dc *container.Config, ref, author, comment string,
	diff func(context.Context) (layer ocispec.Descriptor, diffID digest.Digest, err error)) (digest.Digest, error) {
	name := ""
	if ref != "" {
		n, err := parseRef(ref)
		if err != nil {
			return "", err
		}
		name = n.String()
	}
	ctx, done, err := s.lease(ctx, "commit")
	if err != nil {
		return "", err
	}
	defer done()
	pv, err := s.readVariant(ctx, parent.Manifest)
	if err != nil {
		return "", fmt.Errorf("image %s that container %s was made from: %w", parent.ID, id.Short(), err)
	}
	layer, diffID, err := diff(ctx)
	if err != nil {
		return "", fmt.Errorf("layer of container %s: %w", id.Short(), err)
	}
	h := ocispec.History{Author: author, Comment: comment, CreatedBy: strings.Join(dc.Cmd, " "), EmptyLayer: diffID == ""}
	h.Created = timeOf(conf)
	img := pv.config.DockerOCIImage
	img.Created, img.Author = h.Created, author
	img.Config = imageConfig(dc)
	img.History = append(img.History, h)
	m := pv.manifest
	if diffID != "" {
		img.RootFS.DiffIDs = append(append([]digest.Digest{}, img.RootFS.DiffIDs...), diffID)
		m.Layers = append(append([]ocispec.Descriptor{}, imageLayers(m)...), layer)
	}
	target, err := s.build(ctx, pv.desc.MediaType, img, m.Layers)
	if err != nil {
		return "", err
	}
	s.names.Lock()
	defer s.names.Unlock()
	parentLabel := map[string]string{labelParent: parent.ID.String()}
	if name == "" {
		name = danglingName(target.Digest)
	}
	if err := s.setName(ctx, name, target, parentLabel); err != nil {
		return "", err
	}
	if !isDangling(name) {
		s.publish(ctx, events.ActionTag, target.Digest.String(), familiar(name))
	}
	return target.Digest, nil
}

func timeOf(conf *ocispec.Image) *time.Time {
	if conf != nil && conf.Created != nil {
		return conf.Created
	}
	now := time.Now().UTC()
	return &now
}

// build writes configuration and manifest of an image whose layers are in the
// content store, and unpacks what is not unpacked yet.
func (s *Store) build(ctx context.Context, mediaType string, img dockerspec.DockerOCIImage, layers []ocispec.Descriptor) (ocispec.Descriptor, error) {
	cfgType := ocispec.MediaTypeImageConfig
	if mediaType == images.MediaTypeDockerSchema2Manifest {
		cfgType = images.MediaTypeDockerSchema2Config
	}
	img.RootFS.Type = "layers"
	cfg, err := s.writeJSON(ctx, img, cfgType)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if layers == nil {
		layers = []ocispec.Descriptor{}
	}
	for i := range layers {
		layers[i].MediaType = layerTypeFor(mediaType, layers[i].MediaType)
	}
	m := struct {
		SchemaVersion int                  `json:"schemaVersion"`
		MediaType     string               `json:"mediaType"`
		Config        ocispec.Descriptor   `json:"config"`
		Layers        []ocispec.Descriptor `json:"layers"`
	}{2, mediaType, cfg, layers}
	target, err := s.writeJSON(ctx, m, mediaType)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if err := s.refer(ctx, target); err != nil {
		return ocispec.Descriptor{}, err
	}
	v, err := s.readVariant(ctx, target)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	u := s.newUnpacker(ctx)
	defer u.close()
	return target, u.unpack(v)
}

// layerTypeFor is a layer's media type in the family of its manifest: OCI
// manifests list OCI layers, Docker's list Docker's.
func layerTypeFor(manifest, layer string) string {
	docker := manifest == images.MediaTypeDockerSchema2Manifest
	switch {
	case strings.HasSuffix(layer, "zstd") && docker:
		return images.MediaTypeDockerSchema2LayerZstd
	case strings.HasSuffix(layer, "zstd"):
		return ocispec.MediaTypeImageLayerZstd
	case strings.HasSuffix(layer, "gzip") && docker:
		return images.MediaTypeDockerSchema2LayerGzip
	case strings.HasSuffix(layer, "gzip"):
		return ocispec.MediaTypeImageLayerGzip
	case docker:
		return images.MediaTypeDockerSchema2Layer
	}
	return ocispec.MediaTypeImageLayer
}

// imageConfig is the part of a container's configuration that goes into an
// image.
func imageConfig(c *container.Config) dockerspec.DockerOCIImageConfig {
	var out dockerspec.DockerOCIImageConfig
	out.User, out.Env, out.Cmd, out.Entrypoint, out.WorkingDir = c.User, c.Env, c.Cmd, c.Entrypoint, c.WorkingDir
	out.Volumes, out.Labels, out.StopSignal = c.Volumes, c.Labels, c.StopSignal
	out.ArgsEscaped = c.ArgsEscaped //nolint:staticcheck // Docker carries it on
	out.OnBuild, out.Shell = c.OnBuild, c.Shell
	for p := range c.ExposedPorts {
		if out.ExposedPorts == nil {
			out.ExposedPorts = map[string]struct{}{}
		}
		out.ExposedPorts[p.String()] = struct{}{}
	}
	if h := c.Healthcheck; h != nil {
		out.Healthcheck = &dockerspec.HealthcheckConfig{
			Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod,
			StartInterval: h.StartInterval, Retries: h.Retries,
		}
	}
	return out
}

// errNoChange: the writable layer is as the image.
var errNoChange = errors.New("no change")

// writeDiff writes the writable layer as a gzipped layer. diffID "" : there is
// no change.
func (s *Store) writeDiff(ctx context.Context, r model.Rootfs) (ocispec.Descriptor, digest.Digest, error) {
	d, diffID, err := s.writeLayer(ctx, compressed, func(w io.Writer) error {
		// The overlay's order: a directory before its content; the tar writer
		// turns deletions into whiteouts and keeps hard links.
		cw, n := archive.NewChangeWriter(w, r.Upper), 0
		err := overlay.Walk(ctx, r.Upper, r.Lower, func(kind overlay.Kind, path string, now fs.FileInfo) error {
			n++
			return cw.HandleChange(continuityKind(kind), path, now, nil)
		})
		if err == nil && n == 0 {
			return errNoChange
		}
		if err != nil {
			return err
		}
		return cw.Close()
	})
	if errors.Is(err, errNoChange) {
		return ocispec.Descriptor{}, "", nil
	}
	return d, diffID, err
}

// compressed asks writeLayer to gzip what is written.
const compressed = ""

// layerWriter is where a layer is written: Write takes the uncompressed tar.
// Who has the blob's bytes already (import) writes to blob and plain itself.
type layerWriter struct {
	blob  io.Writer
	plain digest.Digester
	tar   io.Writer
}

func (l *layerWriter) Write(p []byte) (int, error) { return l.tar.Write(p) }

// writeLayer stores what fill writes as a layer: gzipped, or with a media type
// as the bytes that fill writes to the layerWriter's parts.
func (s *Store) writeLayer(ctx context.Context, mediaType string, fill func(io.Writer) error) (_ ocispec.Descriptor, _ digest.Digest, err error) {
	ref := "layer-" + string(model.NewID())
	w, err := content.OpenWriter(ctx, s.cs, content.WithRef(ref))
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	defer func() {
		w.Close()
		if err != nil {
			_ = s.cs.Abort(context.WithoutCancel(ctx), ref)
		}
	}()
	l := &layerWriter{blob: w, plain: digest.Canonical.Digester()}
	if mediaType == compressed {
		mediaType = ocispec.MediaTypeImageLayerGzip
		z := gzip.NewWriter(w)
		l.tar = io.MultiWriter(z, l.plain.Hash())
		if err = fill(l); err == nil {
			err = z.Close()
		}
	} else {
		err = fill(l)
	}
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	st, err := w.Status()
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: w.Digest(), Size: st.Offset}
	err = w.Commit(ctx, d.Size, d.Digest, content.WithLabels(map[string]string{labels.LabelUncompressed: l.plain.Digest().String()}))
	if errdefs.IsAlreadyExists(err) {
		err = nil
	}
	return d, l.plain.Digest(), err
}
