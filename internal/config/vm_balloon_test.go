package config

import "testing"

func TestParseBalloon(t *testing.T) {
	for text, want := range map[string]int64{"off": 0, "10%": 100, "2g": 2 << 30, "0.5%": 5} {
		if got, err := ParseBalloon(text, 1000); err != nil || got != want {
			t.Errorf("%s: %d %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0%", "100%", "-1g", "x", "on", "%", "0"} {
		if got, err := ParseBalloon(text, 1000); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}
