package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/containerd/platforms"
	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/connhelper/commandconn"
	"github.com/docker/cli/cli/connhelper/ssh"
	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

// These are the bodies of /wharf/v1/copy.
type (
	copiedBlob struct {
		Digest       digest.Digest
		Size, Offset int64
	}
	copiedImage struct {
		Name   string
		Target ocispec.Descriptor
		Blobs  []copiedBlob
	}
	begunCopy struct {
		ID      string
		Missing []copiedBlob
	}
)

// atOnce is how many pieces travel at the same time.
const atOnce = 3

func addImageCopy(root *cobra.Command, dockerCLI command.Cli) error {
	for _, c := range root.Commands() {
		if c.Name() == "image" {
			c.AddCommand(imageCopy(dockerCLI))
			return nil
		}
	}
	return errors.New("no command image to add copy to")
}

func imageCopy(dockerCLI command.Cli) *cobra.Command {
	var as string
	var only []string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "copy [OPTIONS] IMAGE ssh://[USER@]HOST[:PORT]|unix://SOCKET",
		Short: "Copy an image straight to another engine",
		Long: `Copy an image straight to another engine: only what it lacks is sent, and no registry is needed.

A copy that was cut goes on where it ended when it is begun again within a day. Over ssh, wharf must
be on the other host's PATH; ssh://HOST/PATH names a socket other than its default.`,
		Args: cli.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := engineAt(args[1])
			if err != nil {
				return err
			}
			from := engine{dial: dockerCLI.Client().Dialer()}
			out := dockerCLI.Out()
			what, err := contentQuery(args[0], only)
			if err != nil {
				return err
			}
			if quiet {
				return copyImage(cmd.Context(), from, to, args[0], what, as, io.Discard)
			}
			return copyImage(cmd.Context(), from, to, args[0], what, as, out)
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVar(&as, "as", "", "Under another name")
	cmd.Flags().StringSliceVar(&only, "platform", nil, "Of an image for several platforms these alone (all that are here)")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Say nothing")
	return cmd
}

// engine is one that is spoken to over connections of its own.
type engine struct {
	dial func(ctx context.Context) (net.Conn, error)
	name string // in messages; "": ours
}

// engineAt understands where another engine is.
func engineAt(where string) (engine, error) {
	u, err := url.Parse(where)
	if err != nil {
		return engine{}, fmt.Errorf("engine %q: %w", where, err)
	}
	switch u.Scheme {
	case "unix":
		if u.Host != "" || u.Path == "" {
			return engine{}, fmt.Errorf("engine %q: want unix:///PATH/OF/SOCKET", where)
		}
		return engine{name: where, dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", u.Path)
		}}, nil
	case "ssh":
		sp, err := ssh.NewSpec(u)
		if err != nil {
			return engine{}, fmt.Errorf("engine %q: %w", where, err)
		}
		remote := []string{"wharf", "system", "dial-stdio"}
		if strings.Trim(sp.Path, "/") != "" {
			remote = []string{"wharf", "--host=unix://" + sp.Path, "system", "dial-stdio"}
		}
		args, err := sp.Command([]string{"-o ConnectTimeout=30", "-T"}, remote...)
		if err != nil {
			return engine{}, fmt.Errorf("engine %q: %w", where, err)
		}
		return engine{name: where, dial: func(ctx context.Context) (net.Conn, error) {
			return commandconn.New(ctx, "ssh", args...)
		}}, nil
	}
	return engine{}, fmt.Errorf("engine %q: want ssh://HOST or unix:///PATH/OF/SOCKET", where)
}

// call asks an engine; the caller closes the body.
func (e engine) call(ctx context.Context, method, path string, body io.Reader, size int64) (*http.Response, error) {
	c := http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return e.dial(ctx) },
		DisableKeepAlives: true, DisableCompression: true,
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://wharf/wharf/v1/copy"+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.ContentLength = size
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, e.blame(err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close() //nolint:errcheck // an answer that is thrown away
	var m struct{ Message string }
	if json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&m) != nil || m.Message == "" {
		m.Message = resp.Status
	}
	if resp.StatusCode == http.StatusNotFound && strings.Contains(m.Message, "page not found") {
		m.Message = "the engine there knows no copies; it must be wharf, of this version or newer"
	}
	return nil, e.blame(errors.New("Error response from daemon: " + m.Message)) //nolint:staticcheck // Docker's words
}

func (e engine) blame(err error) error {
	if e.name == "" {
		return err
	}
	return fmt.Errorf("%s: %w", e.name, err)
}

// ask sends in, if any, as JSON and decodes the answer into out, if any.
func (e engine) ask(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	var size int64
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body, size = bytes.NewReader(b), int64(len(b))
	}
	resp, err := e.call(ctx, method, path, body, size)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// contentQuery asks for an image, or for it on some platforms.
func contentQuery(ref string, only []string) (url.Values, error) {
	q := url.Values{"image": {ref}}
	for _, text := range only {
		p, err := platforms.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("--platform: %w", err)
		}
		b, err := json.Marshal(p)
		if err != nil {
			return nil, err
		}
		q.Add("platform", string(b))
	}
	return q, nil
}

// copyImage carries what `to` lacks.
func copyImage(ctx context.Context, from, to engine, ref string, what url.Values, as string, out io.Writer) error {
	var img copiedImage
	if err := from.ask(ctx, http.MethodGet, "/content?"+what.Encode(), nil, &img); err != nil {
		return err
	}
	if as != "" {
		img.Name = as
	}
	var begun begunCopy
	if err := to.ask(ctx, http.MethodPost, "", map[string]any{"Blobs": img.Blobs}, &begun); err != nil {
		return err
	}
	var sent atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, b := range begun.Missing {
		g.Go(func() error {
			n, err := carry(gctx, from, to, begun.ID, b)
			sent.Add(n)
			if err == nil {
				fmt.Fprintf(out, "%s: %s\n", b.Digest.Encoded()[:12], units.HumanSize(float64(n)))
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("copy %s: %w; what came there stays for a day, begin the copy again", ref, err)
	}
	img.Blobs = nil
	if err := to.ask(ctx, http.MethodPost, "/"+begun.ID+"/commit", img, nil); err != nil {
		return err
	}
	name := img.Name
	if name == "" {
		name = img.Target.Digest.String()
	}
	fmt.Fprintf(out, "Copied %s to %s: %s sent\n", name, to.name, units.HumanSize(float64(sent.Load())))
	return nil
}

// carry takes one piece from an engine to the other.
func carry(ctx context.Context, from, to engine, id string, b copiedBlob) (int64, error) {
	resp, err := from.call(ctx, http.MethodGet, fmt.Sprintf("/blobs/%s?offset=%d", b.Digest, b.Offset), nil, 0)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	var body io.Reader = resp.Body
	if b.Size == b.Offset {
		body = http.NoBody
	}
	put, err := to.call(ctx, http.MethodPut, fmt.Sprintf("/%s/blobs/%s?size=%d&offset=%d", id, b.Digest, b.Size, b.Offset), body, b.Size-b.Offset)
	if err != nil {
		return 0, err
	}
	return b.Size - b.Offset, put.Body.Close()
}
