package config

import (
	"testing"
	"time"
)

func TestBootTime(t *testing.T) {
	for text, want := range map[string]time.Duration{"auto": 0, "90s": 90 * time.Second, "1h": time.Hour} {
		if got, err := (&Config{VMBootTime: text}).BootTime(); err != nil || got != want {
			t.Errorf("%q: %v %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "5", "-1s", "500ms", "2h", "soon"} {
		if got, err := (&Config{VMBootTime: text}).BootTime(); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}
