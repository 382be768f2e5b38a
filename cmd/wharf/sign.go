package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/term"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"wharf/internal/trust"
)

// keyPassword is cosign's variable, so that what works there works here.
const keyPassword = "COSIGN_PASSWORD"

// These are the bodies of /wharf/v1/trust.
type (
	remoteImage struct {
		Name, Repository string
		Digest           digest.Digest
	}
	verification struct {
		remoteImage
		Signatures []struct {
			Key, KeyFile, Format, Repository string
			Annotations                      map[string]any
		}
	}
)

func addImageTrust(root *cobra.Command, dockerCLI command.Cli) error {
	for _, c := range root.Commands() {
		if c.Name() == "image" {
			c.AddCommand(imageKeygen(dockerCLI), imageSign(dockerCLI), imageVerify(dockerCLI))
			return nil
		}
	}
	return errors.New("no command image to add sign to")
}

func imageKeygen(dockerCLI command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:   "keygen [NAME]",
		Short: "Make a pair of keys to sign images with",
		Long: `Make a pair of keys to sign images with: NAME.key, which signs, and NAME.pub, which verifies
(wharf.key and wharf.pub unless named). The private key is encrypted with a password, from
` + keyPassword + ` or asked for; cosign reads it too.`,
		Args: cli.RequiresMaxArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			name := "wharf"
			if len(args) == 1 {
				name = args[0]
			}
			return keygen(dockerCLI, name)
		},
		DisableFlagsInUseLine: true,
	}
}

func keygen(dockerCLI command.Cli, name string) error {
	for _, f := range []string{name + ".key", name + ".pub"} {
		if _, err := os.Lstat(f); err == nil {
			return fmt.Errorf("%s is there already; it is not overwritten", f)
		}
	}
	pass, err := password(dockerCLI, "Password for the private key: ")
	if err != nil {
		return err
	}
	if _, given := os.LookupEnv(keyPassword); !given {
		again, err := password(dockerCLI, "Once more: ")
		if err != nil {
			return err
		}
		if !bytes.Equal(pass, again) {
			return errors.New("the passwords differ; no keys were made")
		}
	}
	private, public, err := trust.Generate(pass)
	if err != nil {
		return err
	}
	if err := writeNew(name+".key", private, 0o600); err != nil {
		return err
	}
	if err := writeNew(name+".pub", public, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(dockerCLI.Out(), "%s.key\n%s.pub\n", name, name)
	return nil
}

func writeNew(file string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// password comes from the environment, or from the terminal.
func password(dockerCLI command.Cli, ask string) ([]byte, error) {
	if p, ok := os.LookupEnv(keyPassword); ok {
		return []byte(p), nil
	}
	if !dockerCLI.In().IsTerminal() {
		return nil, fmt.Errorf("the key has a password and there is no terminal to ask on: set %s", keyPassword)
	}
	state, err := term.SaveState(dockerCLI.In().FD())
	if err != nil {
		return nil, err
	}
	fmt.Fprint(dockerCLI.Err(), ask)
	if err := term.DisableEcho(dockerCLI.In().FD(), state); err != nil {
		return nil, err
	}
	defer func() { _ = term.RestoreTerminal(dockerCLI.In().FD(), state) }() // fails when the terminal is gone
	var p []byte
	for one := make([]byte, 1); ; {
		n, err := dockerCLI.In().Read(one)
		if n == 1 && one[0] != '\n' {
			p = append(p, one[0])
			continue
		}
		fmt.Fprintln(dockerCLI.Err())
		if err != nil && len(p) == 0 {
			return nil, fmt.Errorf("no password: %w", err)
		}
		return p, nil
	}
}

func imageSign(dockerCLI command.Cli) *cobra.Command {
	var key string
	notes := opts.NewListOpts(nil)
	cmd := &cobra.Command{
		Use:   "sign [OPTIONS] --key FILE NAME[:TAG|@DIGEST]",
		Short: "Sign an image in a registry",
		Long: `Sign an image in a registry. The signature lies beside it there, as cosign makes and finds it:
under the tag sha256-DIGEST.sig of the same repository. The key does not leave this machine; a
password is taken from ` + keyPassword + ` or asked for.`,
		Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return sign(cmd.Context(), dockerCLI, args[0], key, notes.GetSlice())
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVar(&key, "key", "", "The private key (cosign's or wharf's, or PKCS#8 PEM)")
	cmd.Flags().VarP(&notes, "annotation", "a", "KEY=VALUE to sign with the image; may be given again")
	_ = cmd.MarkFlagRequired("key")
	return cmd
}

func sign(ctx context.Context, dockerCLI command.Cli, ref, keyFile string, notes []string) error {
	annotations := map[string]string{}
	for _, n := range notes {
		k, v, ok := strings.Cut(n, "=")
		if !ok || k == "" {
			return fmt.Errorf("--annotation %q: want KEY=VALUE", n)
		}
		annotations[k] = v
	}
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	key, err := trust.ReadPrivateKey(text, keyFile, func() ([]byte, error) {
		return password(dockerCLI, "Password for "+keyFile+": ")
	})
	if err != nil {
		return err
	}
	var img remoteImage
	if err := trustCall(ctx, dockerCLI, http.MethodGet, "image", ref, nil, &img); err != nil {
		return err
	}
	payload, err := trust.Payload(img.Repository, img.Digest, annotations)
	if err != nil {
		return err
	}
	sig, err := key.Sign(payload)
	if err != nil {
		return err
	}
	if err := trustCall(ctx, dockerCLI, http.MethodPost, "signatures", img.Name, map[string][]byte{"Payload": payload, "Signature": sig}, nil); err != nil {
		return err
	}
	fmt.Fprintf(dockerCLI.Out(), "Signed %s with key %s\n", img.Name, key.ID)
	return nil
}

func imageVerify(dockerCLI command.Cli) *cobra.Command {
	var keys []string
	var format string
	var anyRepository bool
	cmd := &cobra.Command{
		Use:   "verify [OPTIONS] NAME[:TAG|@DIGEST]",
		Short: "Verify the signatures of an image in a registry",
		Long: `Verify the signatures of an image in a registry: what the name means there now must be signed by one
of the keys, or without --key by one that the engine's trust policy names for its repository. The
signature must name the repository too, unless --any-repository is given.`,
		Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "" && format != "json" {
				return fmt.Errorf("--format %q: it is json, or nothing for lines", format)
			}
			in := map[string]any{"AnyRepository": anyRepository}
			var all []byte
			for _, f := range keys {
				b, err := os.ReadFile(f)
				if err != nil {
					return err
				}
				all = append(append(all, b...), '\n')
			}
			if len(all) > 0 {
				if _, err := trust.PublicKeys(all, strings.Join(keys, ", ")); err != nil {
					return err
				}
				in["Keys"] = string(all)
			}
			var v verification
			if err := trustCall(cmd.Context(), dockerCLI, http.MethodPost, "verify", args[0], in, &v); err != nil {
				return err
			}
			return v.show(dockerCLI.Out(), format)
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringArrayVar(&keys, "key", nil, "A file of public keys (PEM); may be given again")
	cmd.Flags().StringVar(&format, "format", "", "json")
	cmd.Flags().BoolVar(&anyRepository, "any-repository", false, "Take signatures that name another repository or none (Sigstore bundles)")
	return cmd
}

func (v verification) show(w io.Writer, format string) error {
	if format == "json" {
		return json.NewEncoder(w).Encode(v)
	}
	fmt.Fprintf(w, "%s\n", v.Name)
	for _, s := range v.Signatures {
		who := "key " + s.Key
		if s.KeyFile != "" {
			who = s.KeyFile + " (" + who + ")"
		}
		fmt.Fprintf(w, "  signed by %s", who)
		if s.Repository != "" {
			fmt.Fprintf(w, " as %s", s.Repository)
		}
		var notes []string
		for k, a := range s.Annotations {
			notes = append(notes, fmt.Sprintf("%s=%v", k, a))
		}
		slices.Sort(notes)
		if len(notes) > 0 {
			fmt.Fprintf(w, ": %s", strings.Join(notes, ", "))
		}
		fmt.Fprintln(w)
	}
	return nil
}

// trustCall asks the engine about an image in a registry, with the client's
// credentials for that.
func trustCall(ctx context.Context, dockerCLI command.Cli, method, what, ref string, in, out any) error {
	auth, err := command.RetrieveAuthTokenFromImage(dockerCLI.ConfigFile(), ref)
	if err != nil {
		return fmt.Errorf("%s: %w", ref, err)
	}
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://wharf/wharf/v1/trust/"+what+"?image="+url.QueryEscape(ref), body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(registry.AuthHeader, auth)
	resp, err := engineDo(dockerCLI, req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}
