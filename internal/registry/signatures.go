package registry

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/opencontainers/go-digest"
)

// aboutTag is a tag by which something belongs to the image of that digest:
// cosign's signatures, attestations and SBOMs, and the tag that stands in for a
// list of referrers in a registry without one (distribution-spec, "Referrers
// Tag Schema").
var aboutTag = regexp.MustCompile(`^sha256-([a-f0-9]{64})(\.sig|\.att|\.sbom)?$`)

// about is such a tag.
type about struct {
	tag              string
	image, signature digest.Digest
}

// anchors keeps what stays of itself: tagged manifests, and without
// GCOptions.Untagged the others, too. A tag about an image that the repository
// has, or had, is no anchor: it is returned. One about an image that was never
// here is: signatures may be kept apart from their images.
func (c *collection) anchors(ctx context.Context, f *found) ([]about, error) {
	tags, err := f.repo.Tags(ctx).All(ctx)
	if err != nil && !missing(err) {
		return nil, err
	}
	var out []about
	signature := map[digest.Digest]bool{}
	for _, t := range tags {
		d, err := f.repo.Tags(ctx).Get(ctx, t)
		if err != nil {
			return nil, fmt.Errorf("tag %s: %w", t, err)
		}
		m := aboutTag.FindStringSubmatch(t)
		if m == nil || !f.had(digest.NewDigestFromEncoded(digest.SHA256, m[1])) {
			f.keep(d.Digest)
			continue
		}
		a := about{t, digest.NewDigestFromEncoded(digest.SHA256, m[1]), f.real(d.Digest)}
		signature[a.signature] = true
		out = append(out, a)
	}
	for d := range f.refs {
		if !signature[d] && (!c.o.Untagged || c.young(d)) {
			f.keep(d)
		}
	}
	return out, nil
}

// had: the repository has manifest d, or had it. A deletion takes the link
// and leaves its directory, which the next push would use.
func (f *found) had(d digest.Digest) bool {
	if _, here := f.refs[d]; here {
		return true
	}
	st, err := os.Stat(filepath.Join(repositoryDir(f.root, f.repo.Named().Name()), manifestLinks, d.Algorithm().String(), d.Encoded()))
	return err == nil && st.IsDir()
}
