package build

import (
	"context"
	"errors"
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
	dirs, done, err := layerDirs(ctx, ref)
	if err != nil {
		r.log.DebugContext(ctx, "layers of a build are not taken over", "image", target.Digest, "why", err)
		_ = ref.Release(context.WithoutCancel(ctx))
		return
	}
	r.adopting.Add(1)
	err = r.opts.Images.Adopt(target, dirs, func() {
		defer r.adopting.Done()
		_ = done()
		_ = ref.Release(context.WithoutCancel(ctx))
	})
	if err != nil {
		r.log.WarnContext(ctx, "layers of a build are not taken over", "image", target.Digest, "err", err)
	}
}

// layerDirs tells where the layers of ref are unpacked, by the digests of
// their uncompressed tars. done gives back what holds them.
func layerDirs(ctx context.Context, ref cache.ImmutableRef) (_ map[digest.Digest]string, done func() error, err error) {
	remotes, err := ref.GetRemotes(ctx, false, config.RefConfig{Compression: compression.New(compression.Default)}, false, nil)
	if err != nil {
		return nil, nil, err
	}
	if len(remotes) != 1 {
		return nil, nil, fmt.Errorf("%d forms", len(remotes))
	}
	descs := remotes[0].Descriptors
	chain := ref.LayerChain()
	defer func() { _ = chain.Release(context.WithoutCancel(ctx)) }() // ref holds them
	if len(chain) != len(descs) {
		return nil, nil, fmt.Errorf("%d layers, %d blobs", len(chain), len(descs))
	}
	dirs, done, err := chainDirs(ctx, chain)
	if err != nil {
		return nil, nil, err
	}
	out := map[digest.Digest]string{}
	for i, d := range descs {
		if id, err := digest.Parse(d.Annotations["containerd.io/uncompressed"]); err == nil {
			out[id] = dirs[i]
		}
	}
	return out, done, nil
}

// chainDirs tells the directory of each layer, lowest first. The topmost
// directory of a layer's own mount is the layer's. Where there are as many as
// layers below it, these are those; after a merge (COPY --link) they are
// others, and each layer is mounted for itself.
func chainDirs(ctx context.Context, chain cache.RefList) (_ []string, done func() error, err error) {
	var unmounts []func() error
	unmountAll := func() error {
		var errs []error
		for _, u := range unmounts {
			errs = append(errs, u())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			_ = unmountAll()
		}
	}()
	out := make([]string, len(chain))
	for i := len(chain) - 1; i >= 0; i-- {
		if computed(chain[i]) {
			return nil, nil, fmt.Errorf("layer %d is a difference: what it removes is in its archive only", i)
		}
		m, err := chain[i].Mount(ctx, true, nil)
		if err != nil {
			return nil, nil, err
		}
		ms, unmount, err := raw(m).Mount()
		if err != nil {
			return nil, nil, err
		}
		if unmount != nil {
			unmounts = append(unmounts, unmount)
		}
		dirs := dirsOf(ms)
		if len(dirs) == 0 {
			return nil, nil, fmt.Errorf("layer %d has no directory", i)
		}
		out[i] = dirs[0]
		if len(dirs) == i+1 {
			for j, dir := range dirs {
				out[i-j] = dir
			}
			break
		}
	}
	return out, unmountAll, nil
}

// computed: the layer is what BuildKit found as the difference of two others.
func computed(ref cache.ImmutableRef) bool {
	return ref.GetString("cache.lowerDiffParent") != "" || ref.GetString("cache.upperDiffParent") != ""
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
