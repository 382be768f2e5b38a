package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client"
	"github.com/moby/term"
)

// exports is where the result goes: into the engine's images, unless -o says
// another.
func (o *buildOptions) exports() ([]client.ExportEntry, error) {
	texts := o.outputs
	if o.push {
		texts = append(texts, "type=registry")
	}
	if o.load || len(texts) == 0 {
		texts = append(texts, "type=image")
	}
	var out []client.ExportEntry
	for _, text := range texts {
		e, err := o.export(text)
		if err != nil {
			return nil, fmt.Errorf("--output %q: %w", text, err)
		}
		if e.Type == "cacheonly" {
			continue
		}
		for _, a := range o.annotations {
			k, v, ok := strings.Cut(a, "=")
			if !ok {
				return nil, fmt.Errorf("--annotation %q: want key=value", a)
			}
			e.Attrs["annotation."+k] = v
		}
		out = append(out, e)
	}
	return out, nil
}

func (o *buildOptions) export(text string) (client.ExportEntry, error) {
	e := client.ExportEntry{}
	var err error
	switch {
	case text == "-":
		e.Attrs = map[string]string{"type": client.ExporterTar, "dest": "-"}
	case !strings.Contains(text, "="):
		e.Attrs = map[string]string{"type": client.ExporterLocal, "dest": text}
	default:
		if e.Attrs, err = fieldsOf("output", text); err != nil {
			return e, err
		}
	}
	e.Type = e.Attrs["type"]
	dest := e.Attrs["dest"]
	delete(e.Attrs, "type")
	delete(e.Attrs, "dest")
	if e.Type == client.ExporterDocker && dest == "" {
		e.Type = client.ExporterImage // into the engine
	}
	switch e.Type {
	case "registry":
		e.Type, e.Attrs["push"] = client.ExporterImage, "true"
		if len(o.tags) == 0 && e.Attrs["name"] == "" {
			return e, errors.New("what is pushed needs a name: -t NAME")
		}
	case client.ExporterImage, "cacheonly":
	case client.ExporterLocal:
		if dest == "" {
			return e, errors.New("dest= is missing: the directory")
		}
		e.OutputDir = dest
	case client.ExporterTar, client.ExporterOCI, client.ExporterDocker:
		if e.Attrs["tar"] == "false" {
			return e, errors.New("tar=false is not there; unpack the archive instead")
		}
		if e.Output, err = fileOutput(dest); err != nil {
			return e, err
		}
	case "":
		return e, errors.New("type= is missing: image, oci, docker, local, tar, registry or cacheonly")
	default:
		return e, fmt.Errorf("type %s is not there; use image, oci, docker, local, tar, registry or cacheonly", e.Type)
	}
	if dest != "" && e.Output == nil && e.OutputDir == "" {
		return e, fmt.Errorf("type %s takes no dest=", e.Type)
	}
	if _, ok := e.Attrs["name"]; !ok && len(o.tags) > 0 && e.Type != client.ExporterLocal && e.Type != client.ExporterTar {
		e.Attrs["name"], err = fullNames(o.tags)
	}
	return e, err
}

// fullNames are tags with all that people leave out, as BuildKit has them.
func fullNames(tags []string) (string, error) {
	out := make([]string, 0, len(tags))
	for _, t := range tags {
		n, err := reference.ParseNormalizedNamed(t)
		if err != nil {
			return "", fmt.Errorf("--tag %q: %w", t, err)
		}
		out = append(out, reference.TagNameOnly(n).String())
	}
	return strings.Join(out, ","), nil
}

// fileOutput writes to a file, or to stdout unless that is a terminal.
func fileOutput(dest string) (func(map[string]string) (io.WriteCloser, error), error) {
	if dest == "" || dest == "-" {
		if term.IsTerminal(os.Stdout.Fd()) {
			return nil, errors.New("an archive is nothing for a terminal: dest=FILE")
		}
		return func(map[string]string) (io.WriteCloser, error) { return os.Stdout, nil }, nil
	}
	if fi, err := os.Stat(dest); err == nil && fi.IsDir() {
		return nil, fmt.Errorf("%s is a directory; dest= is a file here", dest)
	}
	return func(map[string]string) (io.WriteCloser, error) { return os.Create(dest) }, nil
}

// writeMetadata writes what BuildKit tells of a result, as buildx does: JSON
// in base64 becomes JSON.
func writeMetadata(file string, all map[string]string) error {
	out := map[string]any{}
	for k, v := range all {
		out[k] = v
		if b, err := base64.StdEncoding.DecodeString(v); err == nil && len(b) > 1 && b[0] == '{' && json.Valid(b) {
			out[k] = json.RawMessage(b)
		}
	}
	b, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}
