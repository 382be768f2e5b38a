package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"

	"wharf/api/guestapi"
)

// What a hostile guest lists is bounded: lines, their length, what is in them.
func TestReadChanges(t *testing.T) {
	got, err := readChanges(strings.NewReader(`{"path":"/a","kind":0}` + "\n" + `{"path":"/b\u0000","kind":2}` + "\n"))
	if err != nil || len(got) != 2 || got[1].Kind != container.ChangeDelete {
		t.Errorf("%+v %v", got, err)
	}
	for name, in := range map[string]io.Reader{
		"no JSON":        strings.NewReader("x\n"),
		"another kind":   strings.NewReader(`{"path":"/a","kind":9}` + "\n"),
		"no path":        strings.NewReader("{}\n"),
		"an endless one": &endless{text: `{"path":"/`},
		"too many":       &endless{text: `{"path":"/a","kind":1}` + "\n"},
	} {
		if _, err := readChanges(in); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// endless repeats a text.
type endless struct {
	text string
	at   int
}

func (e *endless) Read(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		m := copy(b[n:], e.text[e.at:])
		n, e.at = n+m, (e.at+m)%len(e.text)
	}
	return n, nil
}

// A stream that ends without its end, or has frames that are none of data, or
// too long ones, is an error and never data.
func TestDataReader(t *testing.T) {
	frames := func(all ...any) io.ReadCloser {
		var b bytes.Buffer
		for i := 0; i < len(all); i += 2 {
			_ = guestapi.Write(&b, all[i].(guestapi.Type), []byte(all[i+1].(string)))
		}
		return io.NopCloser(&b)
	}
	got, err := io.ReadAll(&dataReader{c: frames(guestapi.Data, "one ", guestapi.Data, "two", guestapi.Data, "")})
	if err != nil || string(got) != "one two" {
		t.Errorf("%q %v", got, err)
	}
	for name, c := range map[string]struct {
		in   io.ReadCloser
		want error
	}{
		"cut off":    {frames(guestapi.Data, "one"), io.ErrUnexpectedEOF},
		"other type": {frames(guestapi.Stdout, "one"), guestapi.ErrFrame},
		"too long":   {frames(guestapi.Data, strings.Repeat("x", guestapi.MaxReply+1)), guestapi.ErrFrame},
		"no error":   {frames(guestapi.Error, "{"), guestapi.ErrFrame},
	} {
		if _, err := io.ReadAll(&dataReader{c: c.in}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	var b bytes.Buffer
	_ = guestapi.Write(&b, guestapi.Data, []byte(`{"path":"/a","kind":1}`+"\n"))
	_ = guestapi.Write(&b, guestapi.Data, nil)
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := readChanges(&dataReader{c: io.NopCloser(bytes.NewReader(in))})
		if err == nil && len(fmt.Sprint(got)) > 10*len(in)+100 {
			t.Errorf("%d bytes became %d changes", len(in), len(got))
		}
	})
}
