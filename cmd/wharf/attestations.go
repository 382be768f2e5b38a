package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/platforms"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/formatter/tabwriter"
	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// addAttestations gives image inspect the flag --attestations.
func addAttestations(root *cobra.Command, dockerCLI command.Cli) error {
	cmd, _, err := root.Find([]string{"image", "inspect"})
	if err != nil || cmd.Name() != "inspect" {
		return errors.New("no command image inspect")
	}
	var on bool
	cmd.Flags().BoolVar(&on, "attestations", false, "What is attested about the image instead: SBOM and provenance, as a table, or whole with --format json")
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !on {
			return run(cmd, args)
		}
		format, _ := cmd.Flags().GetString("format")
		platform, _ := cmd.Flags().GetString("platform")
		if format != "" && format != "json" {
			return fmt.Errorf("--format %q: with --attestations it is json, or nothing for a table", format)
		}
		return attestations(cmd.Context(), dockerCLI, args, platform, format)
	}
	return nil
}

func attestations(ctx context.Context, dockerCLI command.Cli, refs []string, platform, format string) error {
	opts := []client.ImageAttestationsOption{client.ImageAttestationsWithStatement()}
	if platform != "" {
		p, err := platforms.Parse(platform)
		if err != nil {
			return fmt.Errorf("--platform: %w", err)
		}
		opts = append(opts, client.ImageAttestationsWithPlatform(p))
	}
	tw := tabwriter.NewWriter(dockerCLI.Out(), 0, 8, 2, ' ', 0)
	if format == "" {
		fmt.Fprintln(tw, "IMAGE\tKIND\tSIZE\tWHAT IT SAYS")
	}
	var errs []error
	for _, ref := range refs {
		got, err := dockerCLI.Client().ImageAttestations(ctx, ref, opts...)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if format == "json" {
			errs = append(errs, json.NewEncoder(dockerCLI.Out()).Encode(got.Items))
			continue
		}
		for _, a := range got.Items {
			var text json.RawMessage
			if a.Statement != nil {
				text = *a.Statement
			}
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", ref, kindOf(a.PredicateType), units.HumanSize(float64(a.Descriptor.Size)), summary(text))
		}
		if len(got.Items) == 0 {
			fmt.Fprintf(tw, "%s\tnone\t\t\n", ref)
		}
	}
	return errors.Join(append(errs, tw.Flush())...)
}

// kindOf is the common name of a predicate type.
func kindOf(predicate string) string {
	switch {
	case strings.HasPrefix(predicate, "https://slsa.dev/provenance/"):
		return "provenance (SLSA " + strings.TrimPrefix(predicate, "https://slsa.dev/provenance/") + ")"
	case strings.HasPrefix(predicate, "https://spdx.dev/Document"):
		return "SBOM (SPDX)"
	case strings.HasPrefix(predicate, "https://cyclonedx.org/"):
		return "SBOM (CycloneDX)"
	}
	return predicate
}

// summary says in a line what a statement holds; "" when it is of a form that
// is not known here.
func summary(b []byte) string {
	var st struct {
		Predicate struct {
			// SPDX, CycloneDX
			Packages   []json.RawMessage `json:"packages"`
			Components []json.RawMessage `json:"components"`
			// SLSA 0.2 and 1
			BuildType string `json:"buildType"`
			Builder   struct {
				ID string `json:"id"`
			} `json:"builder"`
			Materials  []json.RawMessage `json:"materials"`
			Definition struct {
				BuildType    string            `json:"buildType"`
				Dependencies []json.RawMessage `json:"resolvedDependencies"`
			} `json:"buildDefinition"`
			Run struct {
				Builder struct {
					ID string `json:"id"`
				} `json:"builder"`
			} `json:"runDetails"`
		} `json:"predicate"`
	}
	if json.Unmarshal(b, &st) != nil {
		return ""
	}
	p := st.Predicate
	var parts []string
	if n := len(p.Packages) + len(p.Components); n > 0 {
		parts = append(parts, fmt.Sprintf("%d packages", n))
	}
	if t := p.BuildType + p.Definition.BuildType; t != "" {
		parts = append(parts, "built by "+t)
	}
	if id := p.Builder.ID + p.Run.Builder.ID; id != "" {
		parts = append(parts, "on "+id)
	}
	if n := len(p.Materials) + len(p.Definition.Dependencies); n > 0 {
		parts = append(parts, fmt.Sprintf("from %d sources", n))
	}
	return strings.Join(parts, ", ")
}
