package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// builder is the name under which this program is `wharf build`: BuildKit's
// client is linked in here anyway, and costs too much to be in wharf.
const builder = "wharf-build"

// isBuilder reports whether this program was started as `wharf build`.
func isBuilder(program string) bool { return filepath.Base(program) == builder }

// buildMain runs `wharf [OPTIONS] build ...`, or `image build`; args is the
// whole command line behind wharf.
func buildMain(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := runBuild(ctx, args)
	if err == nil {
		return 0
	}
	printError(os.Stderr, err)
	if ctx.Err() != nil {
		return 130
	}
	var st cli.StatusError
	if errors.As(err, &st) && st.StatusCode != 0 {
		return st.StatusCode
	}
	return 1
}

func runBuild(ctx context.Context, args []string) error {
	quiet := make([]byte, ballast)
	defer runtime.KeepAlive(&quiet)
	dockerCLI, err := command.NewDockerCli(command.WithBaseContext(ctx), command.WithUserAgent(builder+"/"+composeVersion))
	if err != nil {
		return err
	}
	root := &cobra.Command{Use: "wharf", SilenceUsage: true, SilenceErrors: true, TraverseChildren: true}
	root.SetIn(dockerCLI.In())
	root.SetOut(dockerCLI.Out())
	root.SetErr(dockerCLI.Err())
	opts, _ := cli.SetupRootCommand(root)
	image := &cobra.Command{Use: "image"}
	image.AddCommand(buildCommand(dockerCLI))
	root.AddCommand(buildCommand(dockerCLI), image)
	top := cli.NewTopLevelCommand(root, dockerCLI, opts, root.Flags())
	top.SetArgs(args)
	_, rest, err := top.HandleGlobalFlags()
	if err != nil {
		return err
	}
	if len(opts.Hosts) == 0 && opts.Context == "" {
		pointAtWharf(nil)
	}
	if err := top.Initialize(); err != nil {
		return err
	}
	root.SetArgs(rest)
	return root.ExecuteContext(ctx)
}

// buildOptions are the flags of `wharf build`.
type buildOptions struct {
	context string

	file, target, network, progress, metadata, iid, shm, cgroup, call string
	tags, args, labels, noCacheFor, hosts, secrets, ssh, platforms    []string
	cacheFrom, cacheTo, outputs, attests, allow, contexts, ulimits    []string
	annotations                                                       []string
	sbom, provenance                                                  string
	noCache, pull, quiet, check, load, push                           bool
}

func buildCommand(dockerCLI command.Cli) *cobra.Command {
	var o buildOptions
	cmd := &cobra.Command{
		Use:   "build [OPTIONS] PATH | URL | -",
		Short: "Build an image from a Dockerfile (BuildKit)",
		Args:  cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.context = args[0]
			return o.run(cmd.Context(), dockerCLI)
		},
		DisableFlagsInUseLine: true,
	}
	o.flags(cmd.Flags())
	return cmd
}

func (o *buildOptions) flags(f *pflag.FlagSet) {
	list := f.StringArrayVar
	f.StringArrayVarP(&o.tags, "tag", "t", nil, `Name of the image ("name:tag")`)
	f.StringVarP(&o.file, "file", "f", "", `Path of the Dockerfile, "-" for stdin (default "PATH/Dockerfile")`)
	f.StringVar(&o.target, "target", "", "Stage to build")
	list(&o.args, "build-arg", nil, `Build-time variable ("NAME=VALUE", or "NAME" for the environment's)`)
	list(&o.labels, "label", nil, "Label of the image")
	list(&o.annotations, "annotation", nil, "Annotation of the image")
	list(&o.contexts, "build-context", nil, `Further context ("name=path")`)
	list(&o.secrets, "secret", nil, `Secret for RUN --mount=type=secret ("id=x,src=file", "id=x,env=NAME")`)
	list(&o.ssh, "ssh", nil, `SSH agent or keys for RUN --mount=type=ssh ("default|id[=socket|key[,key]]")`)
	f.StringSliceVar(&o.platforms, "platform", nil, "Platforms to build for")
	list(&o.cacheFrom, "cache-from", nil, `Caches to read ("name:tag", "type=local,src=dir", "type=registry,ref=name")`)
	list(&o.cacheTo, "cache-to", nil, `Caches to write ("type=inline", "type=local,dest=dir", "type=registry,ref=name")`)
	f.StringArrayVarP(&o.outputs, "output", "o", nil, `Where the result goes ("dir", "-", "type=image|oci|docker|local|tar|registry,dest=path")`)
	f.BoolVar(&o.load, "load", false, "Into the engine's images, which is the default")
	f.BoolVar(&o.push, "push", false, `Push the result ("--output=type=registry")`)
	f.BoolVar(&o.noCache, "no-cache", false, "Use no cache")
	list(&o.noCacheFor, "no-cache-filter", nil, "Stages that use no cache")
	f.BoolVar(&o.pull, "pull", false, "Ask the registries whether base images are newer there")
	f.StringVar(&o.network, "network", "default", "Network of RUN: default, host, none, or a network's name")
	list(&o.hosts, "add-host", nil, `Further name for RUN ("host:ip", "host:host-gateway")`)
	f.StringVar(&o.shm, "shm-size", "", "Size of /dev/shm for RUN")
	list(&o.ulimits, "ulimit", nil, `Limit for RUN ("nofile=1024:2048")`)
	f.StringVar(&o.cgroup, "cgroup-parent", "", "Control group that RUN lives below")
	list(&o.allow, "allow", nil, "Entitlement to give (network.host, security.insecure)")
	f.StringVar(&o.progress, "progress", "auto", "How progress is shown: auto, plain, tty, rawjson, quiet")
	f.StringVar(&o.metadata, "metadata-file", "", "Write what was built to this file, as JSON")
	f.StringVar(&o.iid, "iidfile", "", "Write the image's id to this file")
	f.BoolVar(&o.check, "check", false, "Only look for mistakes in the Dockerfile")
	f.StringVar(&o.call, "call", "build", "What to do: build, check, outline, targets")
	list(&o.attests, "attest", nil, `Attestation ("type=sbom,generator=image", "type=provenance,mode=max")`)
	f.StringVar(&o.sbom, "sbom", "", `Attach a list of what is inside ("--attest=type=sbom")`)
	f.StringVar(&o.provenance, "provenance", "", `Attach how it was built ("--attest=type=provenance")`)
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Print only the image's id")
}

// ballast is memory that is never touched, so that it costs address space
// alone. To the garbage collector it is live: it first runs at twice of it,
// which most builds' clients never reach; a large context costs them a
// tenth of their time otherwise. Beyond that it runs as ever.
const ballast = 24 << 20
