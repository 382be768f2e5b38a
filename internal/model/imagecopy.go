package model

import (
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ImageContent is what an engine has of an image: what a copy to another
// engine sends.
type ImageContent struct {
	Name   string // canonical, with tag; "" when it goes by its digest alone
	Target ocispec.Descriptor
	Blobs  []ImageBlob // what is here, documents last and children before parents
}

// ImageBlob is one piece of content.
type ImageBlob struct {
	Digest digest.Digest
	Size   int64
	Offset int64 `json:",omitempty"` // of a missing one: how much of it is there already
}

// ImageCopy is a copy that was begun: what it still needs.
type ImageCopy struct {
	ID      string
	Missing []ImageBlob
}
