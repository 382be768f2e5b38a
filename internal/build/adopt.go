package build

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/config"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/util/compression"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// adoptingExport makes what was exported ready to run.
type adoptingExport struct {
	exporter.ExporterInstance
	adopt func(ctx context.Context, src *exporter.Source, target ocispec.Descriptor)
}

func (a adoptingExport) Export(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (map[string]string, exporter.FinalizeFunc, exporter.DescriptorReference, error) {
	resp, finalize, ref, err := a.ExporterInstance.Export(ctx, src, info)
	if err == nil && ref != nil {
		a.adopt(ctx, src, ref.Descriptor())
	}
	return resp, finalize, ref, err
}

// adopt gives the image room the snapshots of a build. It is a shortcut: an
// image whose layers are not taken over is unpacked when it is first run.
func (r *Room) adopt(ctx context.Context, src *exporter.Source, target ocispec.Descriptor) {
	ref := src.Ref
	if ref == nil {
		ref = src.Refs[platforms.Format(platforms.Normalize(platforms.DefaultSpec()))]
	}
	if ref == nil {
		return
	}
	ref = ref.Clone()
	dirs, unmount, err := layerDirs(ctx, ref)
	if err != nil {
		r.log.DebugContext(ctx, "layers of a build are not taken over", "image", target.Digest, "why", err)
		_ = ref.Release(context.WithoutCancel(ctx))
		return
	}
	r.adopting.Add(1)
	err = r.opts.Images.Adopt(target, dirs, func() {
		defer r.adopting.Done()
		if unmount != nil {
			_ = unmount()
		}
		_ = ref.Release(context.WithoutCancel(ctx))
	})
	if err != nil {
		r.log.WarnContext(ctx, "layers of a build are not taken over", "image", target.Digest, "err", err)
	}
}

// layerDirs tells where the layers of ref are unpacked, by the digests of
// their uncompressed tars.
func layerDirs(ctx context.Context, ref cache.ImmutableRef) (_ map[digest.Digest]string, unmount func() error, err error) {
	remotes, err := ref.GetRemotes(ctx, false, config.RefConfig{Compression: compression.New(compression.Default)}, false, nil)
	if err != nil {
		return nil, nil, err
	}
	if len(remotes) != 1 {
		return nil, nil, fmt.Errorf("%d forms", len(remotes))
	}
	m, err := ref.Mount(ctx, true, nil)
	if err != nil {
		return nil, nil, err
	}
	ms, unmount, err := raw(m).Mount()
	if err != nil {
		return nil, nil, err
	}
	dirs := dirsOf(ms)
	descs := remotes[0].Descriptors
	if len(dirs) != len(descs) { // merged: the directories are others than the layers
		if unmount != nil {
			_ = unmount()
		}
		return nil, nil, fmt.Errorf("%d directories of %d layers", len(dirs), len(descs))
	}
	out := map[digest.Digest]string{}
	for i, d := range descs {
		id, err := digest.Parse(d.Annotations["containerd.io/uncompressed"])
		if err == nil {
			out[id] = dirs[len(dirs)-1-i]
		}
	}
	return out, unmount, nil
}

// dirsOf are the directories of a read-only mount, topmost first.
func dirsOf(ms []mount.Mount) []string {
	if len(ms) != 1 {
		return nil
	}
	if ms[0].Type == "bind" || ms[0].Type == "rbind" {
		return []string{ms[0].Source}
	}
	for _, o := range ms[0].Options {
		if list, ok := strings.CutPrefix(o, "lowerdir="); ok && ms[0].Type == "overlay" {
			return strings.Split(list, ":")
		}
	}
	return nil
}
