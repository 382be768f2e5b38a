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
	"text/tabwriter"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/completion"
	"github.com/spf13/cobra"
)

// The bodies of /wharf/v1/containers/NAME/network-rules.
type netRule struct {
	Direction string
	Verdict   string
	Target    string
	Source    string `json:",omitempty"`
}

type netChange struct {
	Set, Unset                []netRule `json:",omitempty"`
	Clear                     bool      `json:",omitempty"`
	BandwidthIn, BandwidthOut *string   `json:",omitempty"`
}

type netRate struct{ Rate, Source string }

type netLimits struct {
	ID, Name                  string
	Running                   bool
	Rules                     []netRule
	Egress, Ingress           string
	BandwidthIn, BandwidthOut netRate
	Warnings                  []string `json:",omitempty"`
}

// addNetwork puts our own verbs beside docker/cli's `network` ones.
func addNetwork(root *cobra.Command, dockerCLI command.Cli) {
	for _, cmd := range root.Commands() {
		if cmd.Name() == "network" {
			cmd.AddCommand(verdictCommand(dockerCLI, "allow"), verdictCommand(dockerCLI, "deny"),
				unsetCommand(dockerCLI), limitCommand(dockerCLI), rulesCommand(dockerCLI))
		}
	}
}

const rulesHelp = `
Addresses are an address, a subnet, or "any"; ports a number, a range, each with
/tcp, /udp or /sctp (without: tcp and udp), or "icmp" for ping and its like.
--to speaks of what the container sends and of the other side's ports, --from of
who may reach it and of its own ports.

Rules count at once, also on open connections, and stay until they are unset or
the container is removed. They add up with the labels wharf.egress.* and
wharf.ingress.*. What is denied by address comes first; then, when anything is
allowed by a rule or everything is denied ("any"), the rest is refused.`

// verdictCommand is `network allow` or `network deny`.
func verdictCommand(dockerCLI command.Cli, verdict string) *cobra.Command {
	var f peerFlags
	short := map[string]string{
		"allow": "Allow a container to send to, or be reached from, these addresses and ports and no others",
		"deny":  "Deny a container to send to, or be reached from, addresses and ports",
	}
	example := `  wharf network deny web --to 10.0.0.0/8 --port 443/tcp
  wharf network deny web --to any                  # nothing out but what is allowed
  wharf network deny db --from 172.18.0.0/16 --port 5432/tcp`
	if verdict == "allow" {
		example = strings.ReplaceAll(example, "deny", "allow")
		example = strings.Replace(example, "--to any                  # nothing out but what is allowed", "--to any --port 443/tcp   # nothing out but https", 1)
	}
	cmd := &cobra.Command{
		Use:     verdict + " [OPTIONS] CONTAINER",
		Short:   short[verdict],
		Long:    short[verdict] + ".\n" + rulesHelp,
		Example: example,
		Args:    cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			rules, err := f.rules(verdict)
			if err != nil {
				return err
			}
			return changeRules(cmd.Context(), dockerCLI, args[0], netChange{Set: rules})
		},
		ValidArgsFunction:     completion.ContainerNames(dockerCLI, true),
		DisableFlagsInUseLine: true,
	}
	f.add(cmd)
	return cmd
}

func unsetCommand(dockerCLI command.Cli) *cobra.Command {
	var f peerFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "unset [OPTIONS] CONTAINER",
		Short: "Take rules of a container's network away",
		Long:  "Take rules away that \"allow\" and \"deny\" made: one by its addresses and ports, or all,\nwith the limits of bandwidth. Limits by label stay.",
		Example: `  wharf network unset web --to 10.0.0.0/8 --port 443/tcp
  wharf network unset web --all`,
		Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(f.to)+len(f.from) > 0) {
				return errors.New("say which rules: --to or --from, with --port where the rule has one, or --all")
			}
			ch := netChange{Clear: all}
			if !all {
				rules, err := f.rules("")
				if err != nil {
					return err
				}
				ch.Unset = rules
			}
			return changeRules(cmd.Context(), dockerCLI, args[0], ch)
		},
		ValidArgsFunction:     completion.ContainerNames(dockerCLI, true),
		DisableFlagsInUseLine: true,
	}
	f.add(cmd)
	cmd.Flags().BoolVarP(&all, "all", "a", false, "All rules and limits of bandwidth")
	return cmd
}

func limitCommand(dockerCLI command.Cli) *cobra.Command {
	var in, out string
	cmd := &cobra.Command{
		Use:   "limit [OPTIONS] CONTAINER",
		Short: "Limit a container's bandwidth",
		Long: `Limit the bits a second that a container may send (--egress) and receive
(--ingress) by each of its interfaces: a number with kbit, mbit or gbit. "none"
lifts a limit, "" goes back to what the labels wharf.bandwidth.* say.`,
		Example: `  wharf network limit web --egress 10mbit --ingress 50mbit
  wharf network limit web --egress none`,
		Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var ch netChange
			if cmd.Flags().Changed("ingress") {
				ch.BandwidthIn = &in
			}
			if cmd.Flags().Changed("egress") {
				ch.BandwidthOut = &out
			}
			if ch.BandwidthIn == nil && ch.BandwidthOut == nil {
				return errors.New("say how much: --egress 10mbit, --ingress 10mbit, or none")
			}
			return changeRules(cmd.Context(), dockerCLI, args[0], ch)
		},
		ValidArgsFunction:     completion.ContainerNames(dockerCLI, true),
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVar(&out, "egress", "", "What it sends, such as 10mbit")
	cmd.Flags().StringVar(&in, "ingress", "", "What it receives, such as 10mbit")
	return cmd
}

func rulesCommand(dockerCLI command.Cli) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "rules [OPTIONS] CONTAINER",
		Short: "Show what a container may send and receive",
		Args:  cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "table" && format != "json" {
				return fmt.Errorf("--format %q: want table or json", format)
			}
			var l netLimits
			if err := rulesRequest(cmd.Context(), dockerCLI, args[0], nil, &l); err != nil {
				return err
			}
			if format == "json" {
				enc := json.NewEncoder(dockerCLI.Out())
				enc.SetIndent("", "  ")
				return enc.Encode(l)
			}
			return tableRules(dockerCLI.Out(), l)
		},
		ValidArgsFunction:     completion.ContainerNames(dockerCLI, true),
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVar(&format, "format", "table", `Format output: "table" or "json"`)
	return cmd
}

// peerFlags are --to, --from and --port.
type peerFlags struct{ to, from, ports []string }

func (f *peerFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&f.to, "to", nil, `Where it sends to: address, subnet or "any"`)
	cmd.Flags().StringSliceVar(&f.from, "from", nil, `Where it is reached from: address, subnet or "any"`)
	cmd.Flags().StringSliceVarP(&f.ports, "port", "p", nil, `Port or range with /tcp, /udp or /sctp; "icmp"`)
}

// rules are every combination of the flags.
func (f *peerFlags) rules(verdict string) ([]netRule, error) {
	if len(f.to)+len(f.from) == 0 {
		return nil, errors.New(`say where: --to (what it sends) or --from (who reaches it), with an address, a subnet or "any"`)
	}
	ports := f.ports
	if len(ports) == 0 {
		ports = []string{""}
	}
	var all []netRule
	for _, d := range []struct {
		direction string
		peers     []string
	}{{"egress", f.to}, {"ingress", f.from}} {
		for _, peer := range d.peers {
			for _, p := range ports {
				all = append(all, netRule{Direction: d.direction, Verdict: verdict, Target: ruleTarget(peer, p)})
			}
		}
	}
	return all, nil
}

// ruleTarget writes a peer and a port as the daemon reads them.
func ruleTarget(peer, port string) string {
	number, proto, _ := strings.Cut(port, "/")
	if proto == "" {
		switch number {
		case "tcp", "udp", "sctp", "icmp":
			number, proto = "", number
		}
	}
	if number != "" {
		if strings.Contains(peer, ":") && !strings.HasPrefix(peer, "[") {
			peer = "[" + peer + "]"
		}
		peer += ":" + number
	}
	if proto != "" {
		peer += "/" + proto
	}
	return peer
}

// changeRules changes and says what it comes to.
func changeRules(ctx context.Context, dockerCLI command.Cli, name string, ch netChange) error {
	var l netLimits
	if err := rulesRequest(ctx, dockerCLI, name, &ch, &l); err != nil {
		return err
	}
	for _, w := range l.Warnings {
		fmt.Fprintln(dockerCLI.Err(), "WARNING:", w)
	}
	return tableRules(dockerCLI.Out(), l)
}

func tableRules(w io.Writer, l netLimits) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "DIRECTION\tVERDICT\tADDRESS AND PORT\tSET BY")
	for _, d := range []struct{ direction, rest string }{{"egress", l.Egress}, {"ingress", l.Ingress}} {
		for _, r := range l.Rules {
			if r.Direction == d.direction {
				fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", r.Direction, r.Verdict, r.Target, r.Source)
			}
		}
		fmt.Fprintf(tw, "%s\t%s\tthe rest\t\n", d.direction, d.rest)
	}
	for _, b := range []struct {
		direction string
		rate      netRate
	}{{"egress", l.BandwidthOut}, {"ingress", l.BandwidthIn}} {
		if b.rate.Rate != "" {
			fmt.Fprintf(tw, "%s\tlimit\t%s\t%s\n", b.direction, b.rate.Rate, b.rate.Source)
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if !l.Running {
		fmt.Fprintf(w, "%s does not run: this counts from its next start.\n", l.Name)
	}
	return nil
}

// rulesRequest asks for a container's limits, or changes them.
func rulesRequest(ctx context.Context, dockerCLI command.Cli, name string, ch *netChange, into *netLimits) error {
	method := http.MethodGet
	var body bytes.Buffer
	if ch != nil {
		method = http.MethodPost
		if err := json.NewEncoder(&body).Encode(ch); err != nil {
			return err
		}
	}
	dial := dockerCLI.Client().Dialer()
	c := http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://wharf/wharf/v1/containers/"+url.PathEscape(name)+"/network-rules", &body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusOK {
		return json.Unmarshal(raw, into)
	}
	var e struct{ Message string }
	switch {
	case json.Unmarshal(raw, &e) == nil && e.Message != "" && e.Message != "page not found":
		return errors.New(e.Message)
	default:
		return fmt.Errorf("the daemon at %s has no network rules (%s); is it another engine?", dockerCLI.Client().DaemonHost(), resp.Status)
	}
}
