package dockerapi

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
)

func (s *server) imageRoutes() []route {
	return need(s.Images != nil, "image", []route{
		{method: "GET", path: "/images/json", handle: s.listImages},
		{method: "POST", path: "/images/create", handle: s.pullOrImport},
		{method: "POST", path: "/images/load", handle: s.load},
		{method: "GET", path: "/images/get", handle: s.save},
		{method: "POST", path: "/images/prune", since: 25, handle: s.pruneImages},
		{method: "GET", path: "/images/search", handle: s.search},
		{method: "GET", path: "/images/{}/json", handle: s.inspectImage},
		{method: "GET", path: "/images/{}/history", handle: s.history},
		{method: "GET", path: "/images/{}/get", handle: s.save},
		{method: "GET", path: "/images/{}/attestations", since: 55, handle: s.attestations},
		{method: "POST", path: "/images/{}/push", handle: s.push},
		{method: "POST", path: "/images/{}/tag", handle: s.tag},
		{method: "DELETE", path: "/images/{}", handle: s.removeImage},
		{method: "GET", path: "/distribution/{}/json", since: 30, handle: s.distribution},
	})
}

// taggedRef joins repository and tag, "latest" where there is none. "" for
// an empty repository.
func taggedRef(repo, tag string) (string, error) {
	if repo == "" {
		return "", nil
	}
	ref, err := reference.ParseNormalizedNamed(repo)
	if err != nil {
		return "", invalid("image name %q: %v", repo, err)
	}
	if _, digested := ref.(reference.Digested); digested {
		return "", invalid("image name %q: a digest cannot be given here", repo)
	}
	if tag != "" {
		if ref, err = reference.WithTag(reference.TrimNamed(ref), tag); err != nil {
			return "", invalid("tag %q: %v", tag, err)
		}
	}
	return reference.FamiliarString(reference.TagNameOnly(ref)), nil
}

func (s *server) listImages(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	if glob := c.get("filter"); c.v < 41 && glob != "" && len(f["reference"]) == 0 {
		add(f, "reference", glob)
	}
	manifests := c.v >= 47 && c.truth("manifests")
	identity := c.v >= 54 && c.truth("identity")
	if identity && !manifests {
		return invalid("conflicting options: identity requires manifests=1")
	}
	all, err := s.Images.List(c.ctx(), c.truth("all"), c.v >= 42 && c.truth("shared-size"), manifests, f)
	if err != nil {
		return err
	}
	for i := range all {
		if !identity {
			hideIdentity(all[i].Manifests)
		}
	}
	return c.json(http.StatusOK, imagesFor(c.v, list(all)))
}

// hideIdentity takes away what was not asked for.
func hideIdentity(ms []image.ManifestSummary) {
	for _, m := range ms {
		if m.ImageData != nil {
			m.ImageData.Identity = nil
		}
	}
}

func (s *server) attestations(c *call) error {
	if len(c.q["platform"]) > 1 {
		return invalid("only one platform value is currently supported")
	}
	p, err := c.platformJSON("platform", 55)
	if err != nil {
		return err
	}
	var kinds []string
	for _, k := range c.q["type"] {
		if k = strings.TrimSpace(k); k != "" {
			kinds = append(kinds, k)
		}
	}
	got, err := s.Images.Attestations(c.ctx(), c.name, p, kinds, c.truth("statement"))
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, list(got))
}

func (s *server) search(c *call) error {
	limit := 0
	if text := c.get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > 100 {
			return invalid("limit %s is outside the range of [1, 100]", text)
		}
		limit = n
	}
	f, err := c.filters()
	if err != nil {
		return err
	}
	if c.get("term") == "" {
		return invalid("term: what to search for is missing")
	}
	got, err := s.Images.Search(c.ctx(), c.get("term"), limit, f, c.registryAuth())
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, list(got))
}

// imagesFor shows images as version v did. It changes all.
func imagesFor(v version, all []image.Summary) any {
	for i := range all {
		im := &all[i]
		im.RepoTags, im.RepoDigests = list(im.RepoTags), list(im.RepoDigests)
		if v < 43 && len(im.RepoTags)+len(im.RepoDigests) == 0 {
			im.RepoTags, im.RepoDigests = []string{"<none>:<none>"}, []string{"<none>@<none>"}
		}
		if v < 48 {
			im.Descriptor = nil
		}
		if v < 51 {
			im.Containers = -1
		}
	}
	if v >= 44 {
		return all
	}
	type legacyImage struct {
		image.Summary
		VirtualSize int64
	}
	old := make([]legacyImage, len(all))
	for i, im := range all {
		old[i] = legacyImage{im, im.Size}
	}
	return old
}

func (s *server) inspectImage(c *call) error {
	manifests := c.v >= 48 && c.truth("manifests")
	platform, err := c.platformJSON("platform", 49)
	if err != nil {
		return err
	}
	if manifests && platform != nil {
		return invalid("conflicting options: manifests and platform options cannot both be set")
	}
	got, err := s.Images.Inspect(c.ctx(), c.name, platform, manifests)
	if err != nil {
		return err
	}
	parent, err := s.Images.Parent(c.ctx(), got.ID)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, imageInspectFor(c.v, got, parent))
}

// legacyImageInspect is inspect's answer before 1.52: nothing is left out.
type legacyImageInspect struct {
	*image.InspectResponse
	Parent        string
	Comment       string
	DockerVersion string
	Author        string
	Config        map[string]any
	VirtualSize   *int64  `json:",omitempty"`
	Container     *string `json:",omitempty"`
	// What the image was made with; docker-compose 1.29 reads its Volumes.
	ContainerConfig map[string]any `json:",omitempty"`
}

// parentImageInspect is inspect's answer since 1.52 for a committed image.
type parentImageInspect struct {
	*image.InspectResponse
	Parent string
}

// imageInspectFor shows an image as version v did. It leaves got as it is.
func imageInspectFor(v version, got *image.InspectResponse, parent string) any {
	r := *got
	r.RepoTags, r.RepoDigests = list(r.RepoTags), list(r.RepoDigests)
	hideIdentity(r.Manifests)
	if v < 48 {
		r.Descriptor = nil
	}
	if v < 53 {
		r.Identity = nil
	}
	if v >= 52 {
		if parent != "" {
			return parentImageInspect{&r, parent}
		}
		return &r
	}
	old := &legacyImageInspect{InspectResponse: &r, Parent: parent, Comment: r.Comment, Author: r.Author, Config: legacyImageConfig(v, r.Config)}
	if v < 45 {
		old.Container, old.ContainerConfig = new(string), old.Config
	}
	if v < 44 {
		old.VirtualSize = &r.Size
		if r.Created == "" {
			r.Created = time.Time{}.Format(time.RFC3339Nano)
		}
	}
	return old
}

func (s *server) history(c *call) error {
	platform, err := c.platformJSON("platform", 48)
	if err != nil {
		return err
	}
	h, err := s.Images.History(c.ctx(), c.name, platform)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, list(h))
}

func (s *server) tag(c *call) error {
	target, err := taggedRef(c.get("repo"), c.get("tag"))
	if err != nil {
		return err
	}
	if target == "" {
		return invalid("repo: the new name is missing")
	}
	if name, _, _ := strings.Cut(target, ":"); name == string(digest.Canonical) {
		return invalid("refusing to create an ambiguous tag using digest algorithm as name")
	}
	if err := s.Images.Tag(c.ctx(), c.name, target); err != nil {
		return err
	}
	return c.done(http.StatusCreated)
}

func (s *server) removeImage(c *call) error {
	if strings.TrimSpace(c.name) == "" {
		return invalid("image name cannot be blank")
	}
	platforms, err := c.platformsJSON("platforms", 50, 50)
	if err != nil {
		return err
	}
	gone, err := s.Images.Remove(c.ctx(), c.name, c.truth("force"), c.truth("noprune"), platforms)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, list(gone))
}

func (s *server) pruneImages(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	report, err := s.Images.Prune(c.ctx(), f)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, report)
}

func (s *server) distribution(c *call) error {
	d, err := s.Images.Distribution(c.ctx(), c.name, c.registryAuth())
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, d)
}
