package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBuilder(t *testing.T) {
	c := Default()
	text := `{"builder": {"gc": {"enabled": false, "defaultKeepStorage": "1GB", "defaultMaxUsedSpace": "50%",
		"policy": [{"filter": ["unused-for=48h", "type=source.local"], "keepStorage": "1k"}, {"all": true, "maxUsedSpace": "2k"}]},
		"entitlements": {"security-insecure": true}}}`
	if err := c.readFile([]byte(text), nil); err != nil {
		t.Fatal(err)
	}
	def, rules, err := c.Builder.Spaces(1000)
	if err != nil || *c.Builder.GC.Enabled || !*c.Builder.Entitlements.SecurityInsecure || c.Builder.Entitlements.NetworkHost != nil {
		t.Errorf("%+v %v", c.Builder, err)
	}
	if d := cmp.Diff(BuilderSpace{Reserved: 1 << 30, Max: 500}, def); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]BuilderSpace{{Filters: []string{"type==source.local"}, UnusedFor: 48 * time.Hour, Reserved: 1024}, {All: true, Max: 2048}}, rules); d != "" {
		t.Error(d)
	}
	for text, want := range map[string]string{
		`{"builder": {"gc": {"defaultMinFreeSpace": "lots"}}}`:               "defaultminFreeSpace",
		`{"builder": {"gc": {"policy": [{"filter": ["age=1h"]}]}}}`:          "age=1h",
		`{"builder": {"gc": {"policy": [{"filter": ["unused-for=soon"]}]}}}`: "unused-for=soon",
		`{"builder": {"nonesuch": 1}}`:                                       "nonesuch",
	} {
		c := Default()
		err := c.readFile([]byte(text), nil)
		if err == nil {
			err = c.checkBuilder()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
