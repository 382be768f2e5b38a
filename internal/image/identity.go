package image

import (
	"context"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
)

// noteSource remembers that a registry has documents. It is a help, not a
// record: an error is logged.
func (s *Store) noteSource(ctx context.Context, ref reference.Named, ds ...digest.Digest) {
	for key, repo := range sourceLabel(ref) {
		for _, d := range ds {
			info, err := s.cs.Info(ctx, d)
			if err == nil {
				repos := strings.FieldsFunc(info.Labels[key], func(r rune) bool { return r == ',' })
				if slices.Contains(repos, repo) {
					continue
				}
				repos = append(repos, repo)
				slices.Sort(repos)
				info.Labels = map[string]string{key: strings.Join(repos, ",")}
				_, err = s.cs.Update(ctx, info, "labels."+key)
			}
			if err != nil {
				s.log.WarnContext(ctx, "origin not noted", "id", d, "err", err)
			}
		}
	}
}

// identity says where a manifest or index came from: the repositories that it
// was pulled from or pushed to, and by whose signature the trust policy let it
// in. Labels of the content store say it, which tagging does not change.
// Nothing is verified here; nil: nothing is known.
func (s *Store) identity(ctx context.Context, d digest.Digest) *image.Identity {
	info, err := s.cs.Info(ctx, d)
	if err != nil {
		return nil
	}
	var repos []string
	for k, v := range info.Labels {
		host, ok := strings.CutPrefix(k, sourcePrefix)
		if !ok {
			continue
		}
		for repo := range strings.SplitSeq(v, ",") {
			if n, err := reference.ParseNormalizedNamed(host + "/" + repo); err == nil {
				repos = append(repos, n.Name())
			}
		}
	}
	signed := info.Labels[labelVerified]
	if len(repos) == 0 && signed == "" {
		return nil
	}
	slices.Sort(repos)
	repos = slices.Compact(repos)
	id := &image.Identity{}
	if f := strings.SplitN(signed, " ", 3); len(f) == 3 {
		id.Signature = []image.SignatureIdentity{{
			Name: "signed by key " + f[1], DockerReference: f[2], SignatureType: image.SignatureType(f[0]),
		}}
	}
	for _, r := range repos {
		if slices.ContainsFunc(repos, func(o string) bool { return withoutPort(o) == r && o != r }) {
			continue // the same, by the label that leaves the port out
		}
		id.Pull = append(id.Pull, image.PullIdentity{Repository: r})
	}
	return id
}

// withoutPort is a repository's name as containerd's label has it.
func withoutPort(name string) string {
	host, path, ok := strings.Cut(name, "/")
	if i := lastColon(host); ok && i >= 0 {
		return host[:i] + "/" + path
	}
	return name
}
