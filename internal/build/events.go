package build

import (
	"context"
	"strconv"

	"github.com/moby/buildkit/exporter"
	"github.com/moby/moby/api/types/events"
)

// tellingExport tells the change feed of images that builds made. Their names
// are told by the image room.
type tellingExport struct {
	exporter.ExporterInstance
	made func(id string)
}

func (t tellingExport) Export(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (map[string]string, exporter.FinalizeFunc, exporter.DescriptorReference, error) {
	resp, finalize, ref, err := t.ExporterInstance.Export(ctx, src, info)
	if err == nil && ref != nil {
		t.made(ref.Descriptor().Digest.String())
	}
	return resp, finalize, ref, err
}

// made tells of an image.
func (r *Room) made(id string) {
	r.publish(events.ImageEventType, events.ActionCreate, id, map[string]string{"name": id})
}

// pruned tells how much of the cache went.
func (r *Room) pruned(bytes uint64) {
	r.publish(events.BuilderEventType, events.ActionPrune, "", map[string]string{"reclaimed": strconv.FormatUint(bytes, 10)})
}

func (r *Room) publish(typ events.Type, action events.Action, id string, attrs map[string]string) {
	if r.opts.Publish != nil {
		r.opts.Publish(typ, action, id, attrs)
	}
}
