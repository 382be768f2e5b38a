package image

import (
	"context"
	"fmt"
	"io/fs"
	"sort"

	cfs "github.com/containerd/continuity/fs"
	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
	"wharf/internal/overlay"
)

// Changes implements lifecycle's images, in order of the paths.
func (s *Store) Changes(ctx context.Context, id model.ID) ([]container.FilesystemChange, error) {
	r, err := s.Rootfs(ctx, id)
	if err != nil {
		return nil, err
	}
	out := []container.FilesystemChange{}
	err = overlay.Walk(ctx, r.Upper, r.Lower, func(kind overlay.Kind, path string, _ fs.FileInfo) error {
		out = append(out, container.FilesystemChange{Kind: container.ChangeType(kind), Path: path})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("changes of container %s: %w", id.Short(), err)
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out, nil
}

// continuityKind is the same kind in the words of containerd's tar writer.
func continuityKind(k overlay.Kind) cfs.ChangeKind {
	switch k {
	case overlay.Add:
		return cfs.ChangeKindAdd
	case overlay.Delete:
		return cfs.ChangeKindDelete
	}
	return cfs.ChangeKindModify
}
