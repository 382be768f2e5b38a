package build

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/moby/api/types/jsonstream"
	digest "github.com/opencontainers/go-digest"

	"wharf/internal/model"
)

// stream tells a build in the classic builder's words, which scripts and SDKs
// read: "Step 1/3 : FROM x", " ---> Using cache", "Successfully built ID".
type stream struct {
	q     model.BuildRequest
	send  model.Progress
	names map[digest.Digest]string // of vertices, by digest
	begun map[digest.Digest]bool
	ended map[digest.Digest]bool
	last  string // command of the last RUN that began
}

func newStream(q model.BuildRequest, send model.Progress) *stream {
	return &stream{q: q, send: send, names: map[digest.Digest]string{}, begun: map[digest.Digest]bool{}, ended: map[digest.Digest]bool{}}
}

type streamMessage struct {
	Stream string `json:"stream"`
}

func (s *stream) say(format string, args ...any) {
	if !s.q.Quiet {
		s.send(streamMessage{fmt.Sprintf(format, args...)})
	}
}

// stepName is how the Dockerfile frontend calls an instruction: "[2/3] RUN x",
// "[build 2/3] RUN x".
var stepName = regexp.MustCompile(`^\[(?:([^\]]*) )?(\d+/\d+)\] (.*)$`)

// status tells what is new.
func (s *stream) status(st *client.SolveStatus) {
	for _, v := range st.Vertexes {
		s.names[v.Digest] = v.Name
		m := stepName.FindStringSubmatch(v.Name)
		if m == nil || v.Started == nil {
			continue
		}
		if !s.begun[v.Digest] {
			s.begun[v.Digest] = true
			stage := ""
			if m[1] != "" {
				stage = " [" + m[1] + "]"
			}
			s.say("Step %s%s : %s\n", m[2], stage, m[3])
			if cmd, ok := strings.CutPrefix(m[3], "RUN "); ok {
				s.last = cmd
			}
		}
		if v.Completed != nil && !s.ended[v.Digest] {
			s.ended[v.Digest] = true
			if v.Cached {
				s.say(" ---> Using cache\n")
			}
		}
	}
	for _, l := range st.Logs {
		if l.Stream == int(model.Stderr) {
			s.say("\x1b[91m%s\x1b[0m", l.Data) // red, as the classic builder has it
			continue
		}
		s.say("%s", l.Data)
	}
	for _, w := range st.Warnings {
		s.say("[Warning] %s\n", w.Short)
	}
}

// auxID is the id that SDKs read.
type auxID struct {
	Aux struct {
		ID string `json:"ID"`
	} `json:"aux"`
}

// done tells the image's id.
func (s *stream) done(id string) {
	if id == "" {
		return
	}
	if s.q.Quiet {
		s.send(streamMessage{id + "\n"})
		return
	}
	var a auxID
	a.Aux.ID = id
	s.send(a)
	short := strings.TrimPrefix(id, "sha256:")
	s.say("Successfully built %.12s\n", short)
	for _, t := range s.q.Tags {
		if n, err := reference.ParseNormalizedNamed(t); err == nil {
			s.say("Successfully tagged %s\n", reference.FamiliarString(reference.TagNameOnly(n)))
		}
	}
}

// failure is an error as the classic builder puts it into the stream.
type failure struct {
	Detail jsonstream.Error `json:"errorDetail"`
	Error  string           `json:"error"`
}

// failed tells why a build failed: in the stream if it is a step's exit code,
// which clients read there, else as the answer itself.
func (s *stream) failed(err error) error {
	var exit *gatewaypb.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	f := failure{Detail: jsonstream.Error{Code: int(exit.ExitCode)}}
	command := "/bin/sh -c " + s.last
	if strings.HasPrefix(s.last, "[") {
		command = s.last
	}
	f.Error = fmt.Sprintf("The command '%s' returned a non-zero code: %d", command, exit.ExitCode)
	// Why a process could not be started; clients look for what is before.
	if _, why, ok := strings.Cut(err.Error(), "did not complete successfully: "); ok && !strings.HasPrefix(why, "exit code:") {
		f.Error += ": " + why
	}
	f.Detail.Message = f.Error
	s.send(f)
	return nil
}
