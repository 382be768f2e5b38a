package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/completion"
	"github.com/docker/cli/cli/command/formatter/tabwriter"
	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"
)

// addVolume puts our own verbs beside docker/cli's `volume` ones.
func addVolume(root *cobra.Command, dockerCLI command.Cli) {
	for _, cmd := range root.Commands() {
		if cmd.Name() == "volume" {
			cmd.AddCommand(volumeExport(dockerCLI), volumeImport(dockerCLI), volumeClone(dockerCLI), volumeSnapshot(dockerCLI), volumeUsage(dockerCLI))
		}
	}
}

const pauseHelp = "Pause the running containers that use the volume meanwhile, so that the copy is of one moment"

// volumePath is an endpoint of a volume.
func volumePath(name string, rest ...string) string {
	p := "/wharf/v1/volumes/" + url.PathEscape(name)
	for _, r := range rest {
		p += "/" + url.PathEscape(r)
	}
	return p
}

// volumeCall sends a request to one of the daemon's own endpoints. The caller
// closes the answer's body; an answer that is an error becomes one.
func volumeCall(ctx context.Context, dockerCLI command.Cli, method, path string, kind string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://wharf"+path, body)
	if err != nil {
		return nil, err
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	return engineDo(dockerCLI, req)
}

// engineDo sends a request to the engine; the caller closes the body. An
// answer that is an error is one here.
func engineDo(dockerCLI command.Cli, req *http.Request) (*http.Response, error) {
	dial := dockerCLI.Client().Dialer()
	c := http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives: true, DisableCompression: true,
	}}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	var e struct{ Message string }
	if json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&e) != nil || e.Message == "" {
		e.Message = resp.Status
	}
	return nil, errors.New("Error response from daemon: " + e.Message)
}

// volumeDo sends q and follows the progress of what it starts.
func volumeDo(ctx context.Context, dockerCLI command.Cli, path string, q any, into any) error {
	b, err := json.Marshal(q)
	if err != nil {
		return err
	}
	resp, err := volumeCall(ctx, dockerCLI, http.MethodPost, path, "application/json", bytes.NewReader(b))
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	show := dockerCLI.Err().IsTerminal()
	for dec := json.NewDecoder(resp.Body); ; {
		var m struct {
			Bytes  int64
			Result json.RawMessage
			Error  string
		}
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			return errors.New("the daemon ended before the copy was done; nothing of it is left")
		} else if err != nil {
			return err
		}
		if show {
			fmt.Fprintf(dockerCLI.Err(), "\r\x1b[K")
		}
		switch {
		case m.Error != "":
			return errors.New("Error response from daemon: " + m.Error)
		case m.Result != nil:
			return json.Unmarshal(m.Result, into)
		case show:
			fmt.Fprintf(dockerCLI.Err(), "%s copied", units.HumanSize(float64(m.Bytes)))
		}
	}
}

func volumeExport(dockerCLI command.Cli) *cobra.Command {
	var output, snapshot string
	var pause bool
	cmd := &cobra.Command{
		Use:   "export [OPTIONS] VOLUME",
		Short: "Write a volume's data as a tar archive",
		Long: `Write a volume's data as a tar archive: owners as containers see them, extended
attributes, hard links, and files without their holes.`,
		Args:              cli.ExactArgs(1),
		ValidArgsFunction: completion.VolumeNames(dockerCLI),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" && dockerCLI.Out().IsTerminal() {
				return errors.New("refusing to write an archive to a terminal: use -o FILE or redirect the output")
			}
			q := url.Values{}
			if snapshot != "" {
				q.Set("snapshot", snapshot)
			}
			if pause {
				q.Set("pause", "1")
			}
			resp, err := volumeCall(cmd.Context(), dockerCLI, http.MethodGet, volumePath(args[0], "export")+"?"+q.Encode(), "", nil)
			if err != nil {
				return err
			}
			defer func() { _ = resp.Body.Close() }()
			if output == "" {
				_, err = io.Copy(dockerCLI.Out(), resp.Body)
				return err
			}
			return writeWhole(output, resp.Body)
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "Write to a file, instead of STDOUT")
	cmd.Flags().StringVar(&snapshot, "snapshot", "", "Export this snapshot of the volume")
	cmd.Flags().BoolVar(&pause, "pause", false, pauseHelp)
	return cmd
}

// writeWhole makes a file that is there complete or not at all.
func writeWhole(name string, in io.Reader) error {
	if st, err := os.Stat(name); err == nil && !st.Mode().IsRegular() { // /dev/stdout, a pipe
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, in)
		return errors.Join(err, f.Close())
	}
	tmp := name + ".part"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, in)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, name)
	}
	if err != nil {
		_ = os.Remove(tmp)
	}
	return err
}

func volumeImport(dockerCLI command.Cli) *cobra.Command {
	var input, size string
	var devices bool
	labels := opts.NewListOpts(opts.ValidateLabel)
	driver := opts.NewMapOpts(nil, nil)
	cmd := &cobra.Command{
		Use:   "import [OPTIONS] VOLUME",
		Short: "Fill a new or empty volume from a tar archive",
		Long: `Fill a new or empty volume from a tar archive (plain, gzip, bzip2 or zstd) on
STDIN or in a file. The volume has all of it or, after an error, nothing.`,
		Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var in io.Reader = dockerCLI.In()
			if strings.Contains(input, "://") {
				return fmt.Errorf("--input %s: an address is not fetched; download it and give the file", input)
			}
			if input != "" && input != "-" {
				f, err := os.Open(input)
				if err != nil {
					return err
				}
				defer func() { _ = f.Close() }()
				in = f
			} else if dockerCLI.In().IsTerminal() {
				return errors.New("requested to read an archive, but STDIN is a terminal: use -i FILE or redirect the input")
			}
			q := url.Values{}
			options := maps.Clone(driver.GetAll())
			maps.Copy(options, sizeOption(size))
			for key, m := range map[string]map[string]string{"labels": opts.ConvertKVStringsToMap(labels.GetSlice()), "options": options} {
				if len(m) > 0 {
					b, err := json.Marshal(m)
					if err != nil {
						return err
					}
					q.Set(key, string(b))
				}
			}
			if devices {
				q.Set("devices", "1")
			}
			resp, err := volumeCall(cmd.Context(), dockerCLI, http.MethodPost, volumePath(args[0], "import")+"?"+q.Encode(), "application/x-tar", io.NopCloser(in))
			if err != nil {
				return err
			}
			fmt.Fprintln(dockerCLI.Out(), args[0])
			return resp.Body.Close()
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVarP(&input, "input", "i", "", "Read from a file, instead of STDIN")
	cmd.Flags().Var(&labels, "label", "Set metadata for a new volume")
	cmd.Flags().StringVar(&size, "size", "", "Limit the size of a new volume, where the file system can")
	cmd.Flags().VarP(driver, "opt", "o", "Set driver specific options of a new volume, such as type=block")
	cmd.Flags().BoolVar(&devices, "devices", false, "Accept device nodes")
	return cmd
}

func sizeOption(size string) map[string]string {
	if size == "" {
		return nil
	}
	return map[string]string{"size": size}
}

func volumeClone(dockerCLI command.Cli) *cobra.Command {
	var snapshot, size string
	var pause bool
	labels := opts.NewListOpts(opts.ValidateLabel)
	cmd := &cobra.Command{
		Use:   "clone [OPTIONS] SOURCE VOLUME",
		Short: "Make a new volume with the data of another one",
		Long: `Make a new volume with the data of another one. Where the file system can (xfs,
btrfs), both share their blocks until one of them writes; else the data are copied.

Files of a volume in use are copied one after the other. With --pause they are all
of one moment.`,
		Args:              cli.ExactArgs(2),
		ValidArgsFunction: completion.VolumeNames(dockerCLI),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := map[string]any{"Name": args[1], "Snapshot": snapshot, "Pause": pause, "Labels": opts.ConvertKVStringsToMap(labels.GetSlice()), "Options": sizeOption(size)}
			var v struct{ Name string }
			if err := volumeDo(cmd.Context(), dockerCLI, volumePath(args[0], "clone"), q, &v); err != nil {
				return err
			}
			fmt.Fprintln(dockerCLI.Out(), v.Name)
			return nil
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVar(&snapshot, "snapshot", "", "Clone this snapshot of the source")
	cmd.Flags().Var(&labels, "label", "Set metadata for the new volume")
	cmd.Flags().StringVar(&size, "size", "", "Limit the size of the new volume, where the file system can")
	cmd.Flags().BoolVar(&pause, "pause", false, pauseHelp)
	return cmd
}

// snapshotOf is one snapshot as the daemon tells of it.
type snapshotOf struct {
	Volume, Name string
	CreatedAt    time.Time
	Size         int64
	Paused       []string
}

func volumeSnapshot(dockerCLI command.Cli) *cobra.Command {
	var name string
	var pause bool
	cmd := &cobra.Command{
		Use:   "snapshot [OPTIONS] VOLUME",
		Short: "Make, list, restore and remove snapshots of volumes",
		Long: `Make a snapshot of a volume: a copy of its data that nothing changes. Where the
file system can (xfs, btrfs), it shares its blocks with the volume.

Files of a volume in use are copied one after the other: each of them is whole only
if nobody writes it just then, and they need not fit each other. With --pause they
are all of one moment, as after a power cut; a database recovers from that.`,
		Args:              cli.ExactArgs(1),
		ValidArgsFunction: completion.VolumeNames(dockerCLI),
		RunE: func(cmd *cobra.Command, args []string) error {
			var s snapshotOf
			if err := volumeDo(cmd.Context(), dockerCLI, volumePath(args[0], "snapshots"), map[string]any{"Name": name, "Pause": pause}, &s); err != nil {
				return err
			}
			fmt.Fprintln(dockerCLI.Out(), s.Name)
			return nil
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVar(&name, "name", "", "Name of the snapshot (default: the time)")
	cmd.Flags().BoolVar(&pause, "pause", false, pauseHelp)
	cmd.AddCommand(snapshotList(dockerCLI), snapshotRestore(dockerCLI), snapshotRemove(dockerCLI))
	return cmd
}

func snapshotList(dockerCLI command.Cli) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS] [VOLUME]",
		Aliases: []string{"list"},
		Short:   "List snapshots",
		Args:    cli.RequiresMaxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "/wharf/v1/volumes/snapshots"
			if len(args) > 0 {
				path = volumePath(args[0], "snapshots")
			}
			resp, err := volumeCall(cmd.Context(), dockerCLI, http.MethodGet, path, "", nil)
			if err != nil {
				return err
			}
			defer func() { _ = resp.Body.Close() }()
			var all []snapshotOf
			if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
				return err
			}
			if format == "json" {
				return json.NewEncoder(dockerCLI.Out()).Encode(all)
			}
			tw := tabwriter.NewWriter(dockerCLI.Out(), 10, 1, 3, ' ', 0)
			fmt.Fprintln(tw, "VOLUME\tSNAPSHOT\tCREATED\tSIZE\tPAUSED")
			for _, s := range all {
				fmt.Fprintf(tw, "%s\t%s\t%s ago\t%s\t%s\n", s.Volume, s.Name, units.HumanDuration(time.Since(s.CreatedAt)), units.HumanSize(float64(s.Size)), strings.Join(s.Paused, ", "))
			}
			return tw.Flush()
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVar(&format, "format", "table", `Format output: "table" or "json"`)
	return cmd
}

func snapshotRestore(dockerCLI command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:   "restore VOLUME SNAPSHOT",
		Short: "Give a volume the data of its snapshot",
		Long: `Give a volume the data of its snapshot, which stays. What the volume had goes to
the trash (wharf trash ls). No container that has the volume may run.`,
		Args: cli.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var done struct{ Name string }
			if err := volumeDo(cmd.Context(), dockerCLI, volumePath(args[0], "snapshots", args[1], "restore"), struct{}{}, &done); err != nil {
				return err
			}
			fmt.Fprintln(dockerCLI.Out(), done.Name)
			return nil
		},
		DisableFlagsInUseLine: true,
	}
}

func snapshotRemove(dockerCLI command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:     "rm VOLUME SNAPSHOT [SNAPSHOT...]",
		Aliases: []string{"remove"},
		Short:   "Remove snapshots",
		Args:    cli.RequiresMinArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var errs []error
			for _, snap := range args[1:] {
				resp, err := volumeCall(cmd.Context(), dockerCLI, http.MethodDelete, volumePath(args[0], "snapshots", snap), "", nil)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				_ = resp.Body.Close()
				fmt.Fprintln(dockerCLI.Out(), snap)
			}
			return errors.Join(errs...)
		},
		DisableFlagsInUseLine: true,
	}
}

func volumeUsage(dockerCLI command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:               "usage VOLUME [VOLUME...]",
		Short:             "Show how large volumes are and how many containers have them",
		Args:              cli.RequiresMinArgs(1),
		ValidArgsFunction: completion.VolumeNames(dockerCLI),
		RunE: func(cmd *cobra.Command, args []string) error {
			tw := tabwriter.NewWriter(dockerCLI.Out(), 10, 1, 3, ' ', 0)
			fmt.Fprintln(tw, "VOLUME\tCONTAINERS\tSIZE")
			var errs []error
			for _, name := range args {
				var v struct {
					Name      string
					UsageData struct{ RefCount, Size int64 }
				}
				if err := ownRequest(cmd.Context(), dockerCLI, http.MethodGet, volumePath(name), &v); err != nil {
					errs = append(errs, err)
					continue
				}
				size := "elsewhere"
				if v.UsageData.Size >= 0 {
					size = units.HumanSize(float64(v.UsageData.Size))
				}
				fmt.Fprintf(tw, "%s\t%d\t%s\n", v.Name, v.UsageData.RefCount, size)
			}
			return errors.Join(append([]error{tw.Flush()}, errs...)...)
		},
		DisableFlagsInUseLine: true,
	}
}
