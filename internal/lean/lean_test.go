package lean

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type inner struct {
	A string            `json:"a,omitempty"`
	B map[string]string `json:"b,omitempty"`
	C *int              `json:"c,omitempty"`
}

type Base struct {
	Driver string `json:"driver"`
}

type name string

type outer struct {
	Base
	ID       name            `json:"id"`
	Raw      json.RawMessage `json:"raw,omitempty"`
	Data     []byte          `json:"data"`
	List     []inner         `json:"list,omitempty"`
	Words    []string        `json:"words"`
	At       time.Time       `json:"at"`
	N        int32           `json:"n"`
	U        uint64          `json:"u,omitempty"`
	Size     [2]uint         `json:"size,omitempty"`
	On       bool            `json:"on,omitempty"`
	P        *inner          `json:"p,omitempty"`
	Pairs    [][2]string     `json:"pairs,omitempty"`
	Hidden   string          `json:"-"`
	NoTag    int
	ByName   map[name]inner `json:"byName,omitempty"`
	Deep     [][]uint32     `json:"deep,omitempty"`
	Duration time.Duration  `json:"duration,omitempty"`
}

func examples() []outer {
	three := 3
	return []outer{
		{},
		{Base: Base{"json-file"}, ID: "abc", Raw: json.RawMessage(`{"x":[1,2.5e3,null,"\u00e9"]}`), Data: []byte{0, 1, 255},
			List:  []inner{{}, {A: "<a>&\"\\\n\t\x01 \u2028 日本 \xff", B: map[string]string{"z": "1", "a": ""}, C: &three}},
			Words: []string{}, At: time.Unix(1, 500).UTC(), N: -7, U: 1 << 63, Size: [2]uint{4, 5}, On: true, P: &inner{A: "p"},
			Pairs: [][2]string{{"net.x", "1"}}, NoTag: 9, ByName: map[name]inner{"k": {A: "v"}}, Deep: [][]uint32{{1}, nil, {}},
			Duration: time.Second},
	}
}

// TestSame: encoding/json writes and reads the same.
func TestSame(t *testing.T) {
	for _, in := range examples() {
		want, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Marshal(in)
		if err != nil || string(got) != string(want) {
			t.Errorf("%v\n got %s\nwant %s", err, got, want)
		}
		var a, b outer
		if err := json.Unmarshal(want, &a); err != nil {
			t.Fatal(err)
		}
		if err := Unmarshal(want, &b); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(a, b); d != "" {
			t.Error(d)
		}
	}
}

func TestUnmarshal(t *testing.T) {
	for _, tc := range []struct {
		in string
		ok bool
	}{
		{`{}`, true}, {` { "id" : "x" , "unknown" : {"a":[1,{"b":null}],"c":"\"]"} , "n" : 5 } `, true},
		{`{"n":5,"id":"x"}`, true}, {`null`, true}, {`{"p":null,"list":null}`, true},
		{``, false}, {`{`, false}, {`{"id":"x"`, false}, {`{"id":x}`, false}, {`{"id":"x"}x`, false}, {`{"id" "x"}`, false},
		{`{"n":1.5}`, false}, {`{"n":99999999999}`, false}, {`{"u":-1}`, false}, {`{"id":5}`, false}, {`{"on":"yes"}`, false},
		{`{"data":"***"}`, false}, {`{"list":{}}`, false}, {`{"id":"a` + "\n" + `"}`, false}, {`{"id":"\u12"}`, false},
		{`{"id":"\ud83d\ude00\ud800x\b\f\/"}`, true}, {`{"n":01}`, false}, {`{"n":-}`, false}, {`[]`, false}, {`"x"`, false},
		{`{"size":[1,2,3]}`, true}, {`{"n":1,}`, false}, {`{"words":["a",]}`, false}, {`{"words":["a" "b"]}`, false},
	} {
		var a, b outer
		err := Unmarshal([]byte(tc.in), &b)
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.in, err)
		}
		if jerr := json.Unmarshal([]byte(tc.in), &a); (jerr == nil) != tc.ok {
			t.Errorf("%s: encoding/json: %v", tc.in, jerr)
		}
		if d := cmp.Diff(a, b); tc.ok && d != "" {
			t.Errorf("%s: %s", tc.in, d)
		}
	}
	if err := Unmarshal([]byte("1"), 1); err == nil {
		t.Error("a value instead of a pointer")
	}
	deep := make([]byte, 10_000)
	for i := range deep {
		deep[i] = '['
	}
	if err := Unmarshal([]byte(`{"x":`+string(deep)), &outer{}); err == nil {
		t.Error("10,000 brackets")
	}
	if _, err := Marshal(map[int]string{1: "x"}); err == nil {
		t.Error("a map with numbers as keys")
	}
}

// FuzzUnmarshal: whatever is read without an error, encoding/json reads too,
// and to the same.
func FuzzUnmarshal(f *testing.F) {
	for _, in := range examples() {
		b, err := json.Marshal(in)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"id":"\ud83d\ude00\ud800x","n":-0,"words":["a"],"raw":[1e5]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		var b map[string]inner
		if Unmarshal(in, &b) != nil {
			return
		}
		if !json.Valid(in) {
			t.Fatalf("%q is no JSON", in)
		}
		out, err := Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		var c map[string]inner
		if err := json.Unmarshal(out, &c); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(b, c); d != "" {
			t.Fatal(d)
		}
	})
}

func BenchmarkUnmarshal(b *testing.B) {
	in, _ := json.Marshal(examples()[1])
	for b.Loop() {
		var o outer
		if err := Unmarshal(in, &o); err != nil {
			b.Fatal(err)
		}
	}
}
