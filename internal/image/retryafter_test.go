package image

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		code   int
		header string
		want   time.Duration
		ok     bool
	}{
		{429, "3", 3 * time.Second, true},
		{503, "0", 0, true},
		{429, "Fri, 02 Jan 2026 03:04:15 GMT", 10 * time.Second, true},
		{429, "Fri, 02 Jan 2026 03:04:00 GMT", 0, true}, // has passed
		{429, "", 0, false},
		{429, "soon", 0, false},
		{429, "-1", 0, false},
		{429, "3600", 0, false}, // that is for a person to decide
		{500, "3", 0, false},
	} {
		got, ok := retryAfter(&http.Response{StatusCode: c.code, Header: http.Header{"Retry-After": {c.header}}}, now)
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%d %q: %v %v", c.code, c.header, got, ok)
		}
	}
}

func TestPatient(t *testing.T) {
	n := 0
	var body string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 5)
		_, _ = r.Body.Read(b)
		body = string(b)
		if n++; n < 3 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	}))
	defer srv.Close()
	c := http.Client{Transport: patient{http.DefaultTransport}}
	resp, err := c.Post(srv.URL, "text/plain", strings.NewReader("whole"))
	must(t, err)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK || n != 3 || body != "whole" {
		t.Errorf("status %d after %d requests, body %q", resp.StatusCode, n, body)
	}
}
