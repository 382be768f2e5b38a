package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// trashItem is something that can come back.
type trashItem struct {
	ID, Type, Name   string
	Removed, Expires time.Time
	How              string `json:",omitempty"`
	Size             int64
	Image            string `json:",omitempty"`
	ExitCode         int    `json:",omitempty"`
	End              *struct{ Reason, Signal, Text string }
	Container        string   `json:",omitempty"`
	Volumes          []string `json:",omitempty"`
}

// trashReport is the answer of /wharf/v1/trash.
type trashReport struct {
	Items       []trashItem
	Size, Limit int64
}

func trashCommand(dockerCLI command.Cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trash",
		Short: "Bring back removed containers and volumes",
		Long: `Bring back removed containers and volumes, or delete them for good.

What rm, --rm, prune and volume rm take away can come back for a day (daemon option
trash-max-age), as long as there is room (trash-max-size, trash-max-count).`,
		Args: cli.NoArgs,
		RunE: command.ShowHelp(dockerCLI.Err()),
	}
	cmd.AddCommand(trashList(dockerCLI), trashRestore(dockerCLI), trashEmpty(dockerCLI))
	return cmd
}

// ownCall sends a request without a body to one of our endpoints and decodes
// the answer into out.
func ownCall(ctx context.Context, dockerCLI command.Cli, method, path string, q url.Values, out any) error {
	resp, err := volumeCall(ctx, dockerCLI, method, path+"?"+q.Encode(), "", nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	return json.NewDecoder(resp.Body).Decode(out)
}

// query puts filters into a query.
func query(f client.Filters) (url.Values, error) {
	q := url.Values{}
	if len(f) == 0 {
		return q, nil
	}
	b, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	q.Set("filters", string(b))
	return q, nil
}

func trashList(dockerCLI command.Cli) *cobra.Command {
	var quiet, noTrunc bool
	var format string
	filter := opts.NewFilterOpt()
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List what can come back, newest first",
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := query(filter.Value())
			if err != nil {
				return err
			}
			var rep trashReport
			if err := ownCall(cmd.Context(), dockerCLI, http.MethodGet, "/wharf/v1/trash", q, &rep); err != nil {
				return err
			}
			return showTrash(dockerCLI.Out(), rep, format, quiet, noTrunc)
		},
		DisableFlagsInUseLine: true,
	}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "Only display IDs")
	f.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
	f.StringVar(&format, "format", "", `"table", "json", or a Go template: .ID .Type .Name .Removed .RemovedAt .Expires .Size .Reason .How .Image .Container`)
	f.VarP(&filter, "filter", "f", `Only these: "type=container", "type=volume", "name=...", "until=1h", "label=..."`)
	return cmd
}

const trashTable = "table {{.ID}}\t{{.Type}}\t{{.Name}}\t{{.Removed}}\t{{.Expires}}\t{{.Size}}\t{{.Reason}}"

func showTrash(w io.Writer, rep trashReport, format string, quiet, noTrunc bool) error {
	if rep.Limit == 0 && len(rep.Items) == 0 {
		fmt.Fprintln(w, "The trash is off (daemon options trash-max-age, trash-max-size, trash-max-count).")
		return nil
	}
	f := formatter.Format(format)
	plain := format == "" || format == "table"
	switch {
	case quiet:
		f = "{{.ID}}"
	case plain:
		f = trashTable
	}
	ctx := formatter.Context{Output: w, Format: f, Trunc: !noTrunc}
	err := ctx.Write(newTrashLine(), func(line func(formatter.SubContext) error) error {
		for _, it := range rep.Items {
			l := newTrashLine()
			l.it, l.trunc = it, !noTrunc
			if err := line(l); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && plain && !quiet && len(rep.Items) > 0 {
		fmt.Fprintf(w, "\n%s of at most %s. Bring back: wharf trash restore NAME|ID\n", units.HumanSize(float64(rep.Size)), units.HumanSize(float64(rep.Limit)))
	}
	return err
}

// trashLine is one line of trash ls, for templates.
type trashLine struct {
	formatter.HeaderContext
	it    trashItem
	trunc bool
}

func newTrashLine() *trashLine {
	l := &trashLine{}
	l.Header = formatter.SubHeaderContext{
		"ID": "ID", "Type": "TYPE", "Name": "NAME", "Removed": "REMOVED", "RemovedAt": "REMOVED AT", "Expires": "EXPIRES", "Size": "SIZE",
		"Reason": "REASON", "How": "HOW", "Image": "IMAGE", "Container": "CONTAINER",
	}
	return l
}

// MarshalJSON is for --format json.
func (l *trashLine) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(l) }

func (l *trashLine) short(s string, n int) string {
	if l.trunc {
		return formatter.Ellipsis(s, n)
	}
	return s
}

// ID is the item's id, shortened unless --no-trunc.
func (l *trashLine) ID() string {
	if l.trunc && len(l.it.ID) > 12 {
		return l.it.ID[:12]
	}
	return l.it.ID
}

// Type is container or volume.
func (l *trashLine) Type() string { return l.it.Type }

// Name is what it was called.
func (l *trashLine) Name() string { return l.short(l.it.Name, 32) }

// RemovedAt is when it was removed.
func (l *trashLine) RemovedAt() string { return l.it.Removed.Format(time.RFC3339) }

// Removed is how long ago that was.
func (l *trashLine) Removed() string { return units.HumanDuration(time.Since(l.it.Removed)) + " ago" }

// Expires is when it goes for good.
func (l *trashLine) Expires() string {
	left := time.Until(l.it.Expires)
	if left <= 0 {
		return "now"
	}
	return "in " + units.HumanDuration(left)
}

// Size is what it takes on the disk.
func (l *trashLine) Size() string {
	if l.it.Size < 0 {
		return "?"
	}
	return units.HumanSizeWithPrecision(float64(l.it.Size), 3)
}

// Reason says why a container ended, or which container a volume went with.
func (l *trashLine) Reason() string {
	switch {
	case l.it.End != nil:
		return l.short(strings.SplitN(l.it.End.Text, "\n", 2)[0], 60)
	case l.it.Container != "":
		return "removed with container " + l.Container()
	case l.it.Type == "container":
		return "never started"
	}
	return ""
}

// How is rm, --rm or prune.
func (l *trashLine) How() string { return l.it.How }

// Image is a container's image.
func (l *trashLine) Image() string { return l.it.Image }

// Container is the one whose removal took a volume along.
func (l *trashLine) Container() string {
	if l.trunc && len(l.it.Container) > 12 {
		return l.it.Container[:12]
	}
	return l.it.Container
}

func trashRestore(dockerCLI command.Cli) *cobra.Command {
	var name, kind string
	cmd := &cobra.Command{
		Use:   "restore [OPTIONS] NAME|ID [NAME|ID...]",
		Short: "Bring removed containers and volumes back",
		Long: `Bring removed containers and volumes back: by id, the beginning of one, or name (of
several with that name the one that was removed last).

A container comes back with its id, files and log, not running, and its volumes with it.`,
		Args: cli.RequiresMinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if name != "" && len(args) > 1 {
				return errors.New("--name goes with one thing to restore only")
			}
			var errs []error
			for _, ref := range args {
				errs = append(errs, restoreOne(cmd.Context(), dockerCLI, ref, name, kind))
			}
			return errors.Join(errs...)
		},
		ValidArgsFunction:     trashNames(dockerCLI),
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVar(&name, "name", "", "Under another name")
	cmd.Flags().StringVar(&kind, "type", "", "container or volume, where both have the name")
	return cmd
}

func restoreOne(ctx context.Context, dockerCLI command.Cli, ref, name, kind string) error {
	q := url.Values{}
	if name != "" {
		q.Set("name", name)
	}
	if kind != "" {
		q.Set("type", kind)
	}
	var got struct {
		ID, Type, Name    string
		Volumes, Warnings []string
	}
	if err := ownCall(ctx, dockerCLI, http.MethodPost, "/wharf/v1/trash/"+url.PathEscape(strings.TrimPrefix(ref, "/"))+"/restore", q, &got); err != nil {
		return err
	}
	for _, w := range got.Warnings {
		fmt.Fprintln(dockerCLI.Err(), "WARNING:", w)
	}
	fmt.Fprintln(dockerCLI.Out(), got.Name)
	for _, v := range got.Volumes {
		fmt.Fprintln(dockerCLI.Err(), "with volume", v)
	}
	return nil
}

// trashNames completes with what is there.
func trashNames(dockerCLI command.Cli) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		var rep trashReport
		if err := ownCall(cmd.Context(), dockerCLI, http.MethodGet, "/wharf/v1/trash", url.Values{}, &rep); err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, it := range rep.Items {
			if !slices.Contains(args, it.Name) && !slices.Contains(names, it.Name) {
				names = append(names, it.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// confirmed asks a question whose answer is no unless it is y or yes.
func confirmed(dockerCLI command.Cli, question string) bool {
	fmt.Fprint(dockerCLI.Out(), question)
	answer, _ := bufio.NewReader(dockerCLI.In()).ReadString('\n')
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}

func trashEmpty(dockerCLI command.Cli) *cobra.Command {
	var force bool
	filter := opts.NewFilterOpt()
	cmd := &cobra.Command{
		Use:   "empty [OPTIONS] [NAME|ID...]",
		Short: "Delete what is in the trash for good: all of it, or just what is named",
		RunE: func(cmd *cobra.Command, args []string) error {
			if !force {
				what := "everything that can still come back"
				if len(args) > 0 {
					what = "these for good: " + strings.Join(args, ", ")
				} else if len(filter.Value()) > 0 {
					what = "what the filter selects for good"
				}
				if !confirmed(dockerCLI, "WARNING! This deletes "+what+".\nAre you sure you want to continue? [y/N] ") {
					return errors.New("trash empty has been cancelled")
				}
			}
			q, err := query(filter.Value())
			if err != nil {
				return err
			}
			q["ref"] = args
			var rep struct {
				Containers, Volumes []string
				SpaceReclaimed      int64
			}
			if err := ownCall(cmd.Context(), dockerCLI, http.MethodPost, "/wharf/v1/trash/empty", q, &rep); err != nil {
				return err
			}
			for _, part := range []struct {
				title string
				ids   []string
			}{{"Deleted Containers:", rep.Containers}, {"Deleted Volumes:", rep.Volumes}} {
				if len(part.ids) > 0 {
					fmt.Fprintf(dockerCLI.Out(), "%s\n%s\n\n", part.title, strings.Join(part.ids, "\n"))
				}
			}
			fmt.Fprintln(dockerCLI.Out(), "Total reclaimed space:", units.HumanSize(float64(rep.SpaceReclaimed)))
			return nil
		},
		ValidArgsFunction:     trashNames(dockerCLI),
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	cmd.Flags().Var(&filter, "filter", `Only these: "until=1h", "type=container", "type=volume", "name=...", "label=..."`)
	return cmd
}
