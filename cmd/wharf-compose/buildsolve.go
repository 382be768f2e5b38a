package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/docker/cli/cli/command"
	"github.com/docker/go-units"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/tonistiigi/go-csvvalue"
)

// solve puts the flags into the Dockerfile frontend's words. clean removes what
// was made for the time of the build.
func (o *buildOptions) solve(ctx context.Context, dockerCLI command.Cli, c *client.Client) (opt client.SolveOpt, clean func(), err error) {
	a, err := o.attrs(ctx, c)
	if err != nil {
		return opt, nil, err
	}
	opt = client.SolveOpt{Frontend: "dockerfile.v0", FrontendAttrs: a, AllowedEntitlements: o.allow}
	if o.network == "host" && !slices.Contains(o.allow, "network.host") {
		opt.AllowedEntitlements = append(opt.AllowedEntitlements, "network.host")
	}
	opt.Session = append(opt.Session, &credentials{config: dockerCLI.ConfigFile()})
	if err := o.sessions(&opt); err != nil {
		return opt, nil, err
	}
	if opt.CacheImports, err = caches("cache-from", o.cacheFrom); err != nil {
		return opt, nil, err
	}
	if opt.CacheExports, err = caches("cache-to", o.cacheTo); err != nil {
		return opt, nil, err
	}
	if o.call == "build" {
		if opt.Exports, err = o.exports(); err != nil {
			return opt, nil, err
		}
	}
	if err := o.attestations(a); err != nil {
		return opt, nil, err
	}
	clean, err = o.contextInto(&opt, dockerCLI.In())
	return opt, clean, err
}

// attrs are the options that are plain texts.
func (o *buildOptions) attrs(ctx context.Context, c *client.Client) (map[string]string, error) {
	a := map[string]string{"image-resolve-mode": "local"}
	set := func(key, v string) {
		if v != "" {
			a[key] = v
		}
	}
	set("target", o.target)
	set("platform", strings.Join(o.platforms, ","))
	set("no-cache", strings.Join(o.noCacheFor, ","))
	set("ulimit", strings.Join(o.ulimits, ","))
	set("cgroup-parent", o.cgroup)
	if o.noCache {
		a["no-cache"] = ""
	}
	if o.pull {
		a["image-resolve-mode"] = "pull"
	}
	if o.network != "default" && o.network != "bridge" {
		set("force-network-mode", o.network)
	}
	if o.shm != "" {
		n, err := units.RAMInBytes(o.shm)
		if err != nil {
			return nil, fmt.Errorf("--shm-size %q: %w", o.shm, err)
		}
		a["shm-size"] = fmt.Sprint(n)
	}
	for prefix, list := range map[string][]string{"build-arg:": o.args, "label:": o.labels} {
		for _, text := range list {
			name, v, ok := strings.Cut(text, "=")
			if !ok && prefix == "build-arg:" {
				if v, ok = os.LookupEnv(name); !ok {
					continue // as docker: the Dockerfile's default stands
				}
			}
			a[prefix+name] = v
		}
	}
	hosts, err := o.addHosts(ctx, c)
	set("add-hosts", hosts)
	return a, err
}

// gatewayLabel is the label of the engine's worker with the address of
// host-gateway.
const gatewayLabel = "org.mobyproject.buildkit.worker.moby.host-gateway-ip"

func (o *buildOptions) addHosts(ctx context.Context, c *client.Client) (string, error) {
	out := make([]string, 0, len(o.hosts))
	for _, h := range o.hosts {
		name, ip, ok := strings.Cut(h, "=")
		if !ok {
			name, ip, ok = strings.Cut(h, ":")
		}
		if !ok || name == "" || ip == "" {
			return "", fmt.Errorf("--add-host %q: want host:ip", h)
		}
		if ip == "host-gateway" {
			ws, err := c.ListWorkers(ctx)
			if err != nil {
				return "", err
			}
			if ip = ws[0].Labels[gatewayLabel]; ip == "" {
				return "", fmt.Errorf("--add-host %q: the engine has no default network, so there is no host-gateway", h)
			}
		}
		out = append(out, name+"="+strings.Trim(ip, "[]"))
	}
	return strings.Join(out, ","), nil
}

// sessions adds secrets and SSH agents.
func (o *buildOptions) sessions(opt *client.SolveOpt) error {
	var secrets []secretsprovider.Source
	for _, text := range o.secrets {
		v, err := fieldsOf("secret", text)
		if err != nil {
			return err
		}
		s := secretsprovider.Source{ID: v["id"], FilePath: first(v["src"], v["source"]), Env: v["env"]}
		if v["type"] == "env" && s.Env == "" {
			s.Env, s.FilePath = s.FilePath, ""
		}
		if err := onlyKeys("secret", text, v, "type", "id", "src", "source", "env"); err != nil {
			return err
		}
		secrets = append(secrets, s)
	}
	if len(secrets) > 0 {
		store, err := secretsprovider.NewStore(secrets)
		if err != nil {
			return fmt.Errorf("--secret: %w", err)
		}
		opt.Session = append(opt.Session, secretsprovider.NewSecretProvider(store))
	}
	var agents []sshprovider.AgentConfig
	for _, text := range o.ssh {
		id, paths, ok := strings.Cut(text, "=")
		c := sshprovider.AgentConfig{ID: id}
		if ok {
			c.Paths = strings.Split(paths, ",")
		}
		agents = append(agents, c)
	}
	if len(agents) > 0 {
		p, err := sshprovider.NewSSHAgentProvider(agents)
		if err != nil {
			return fmt.Errorf("--ssh: %w", err)
		}
		opt.Session = append(opt.Session, p)
	}
	return nil
}

// fieldsOf reads "key=value,key=value".
func fieldsOf(flag, text string) (map[string]string, error) {
	fields, err := csvvalue.Fields(text, nil)
	if err != nil {
		return nil, fmt.Errorf("--%s %q: %w", flag, text, err)
	}
	out := map[string]string{}
	for _, f := range fields {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			return nil, fmt.Errorf("--%s %q: %q is not of the form key=value", flag, text, f)
		}
		out[strings.ToLower(k)] = v
	}
	return out, nil
}

func onlyKeys(flag, text string, have map[string]string, known ...string) error {
	for k := range have {
		if !slices.Contains(known, k) {
			return fmt.Errorf("--%s %q: nobody knows %q; use %s", flag, text, k, strings.Join(known, ", "))
		}
	}
	return nil
}

func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// caches reads --cache-from and --cache-to.
func caches(flag string, texts []string) (out []client.CacheOptionsEntry, err error) {
	for _, text := range texts {
		if !strings.Contains(text, "=") {
			out = append(out, client.CacheOptionsEntry{Type: "registry", Attrs: map[string]string{"ref": text}})
			continue
		}
		v, err := fieldsOf(flag, text)
		if err != nil {
			return nil, err
		}
		kind := v["type"]
		delete(v, "type")
		switch kind {
		case "registry", "local", "inline":
		case "":
			return nil, fmt.Errorf("--%s %q: type= is missing: registry, local or inline", flag, text)
		default:
			return nil, fmt.Errorf("--%s %q: type %s is not there; use registry, local or inline", flag, text, kind)
		}
		out = append(out, client.CacheOptionsEntry{Type: kind, Attrs: v})
	}
	return out, nil
}

// attestations adds what --attest, --sbom and --provenance ask for.
func (o *buildOptions) attestations(a map[string]string) error {
	all := slices.Clone(o.attests)
	for kind, v := range map[string]string{"sbom": o.sbom, "provenance": o.provenance} {
		switch v {
		case "", "false", "0":
		case "true", "1":
			all = append(all, "type="+kind)
		default:
			all = append(all, "type="+kind+","+v)
		}
	}
	for _, text := range all {
		v, err := fieldsOf("attest", text)
		if err != nil {
			return err
		}
		kind := v["type"]
		if kind == "" {
			return errors.New("--attest " + text + ": type= is missing: sbom or provenance")
		}
		delete(v, "type")
		if v["disabled"] == "true" {
			continue
		}
		parts := []string{}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, k+"="+v[k])
		}
		a["attest:"+kind] = strings.Join(parts, ",")
	}
	return nil
}
