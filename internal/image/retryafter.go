package image

import (
	"io"
	"net/http"
	"strconv"
	"time"
)

// longestWait is the longest pause that a registry may ask for; beyond it the
// operation fails with the registry's words, which name the limit.
const longestWait = 60 * time.Second

// patient waits as long as a registry asks when it limits its rate: 429, or
// 503, with a Retry-After. Without that header the answer goes on to retry,
// which has pauses of its own.
type patient struct{ http.RoundTripper }

func (p patient) RoundTrip(r *http.Request) (*http.Response, error) {
	for n := 1; ; n++ {
		resp, err := p.RoundTripper.RoundTrip(r)
		if err != nil || n >= tries {
			return resp, err
		}
		wait, ok := retryAfter(resp, time.Now())
		if !ok || (r.Body != nil && r.Body != http.NoBody && r.GetBody == nil) {
			return resp, nil
		}
		_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection is used again
		_ = resp.Body.Close()
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-r.Context().Done():
			t.Stop()
			return nil, r.Context().Err()
		}
		if r, err = again(r); err != nil {
			return nil, err
		}
	}
}

// again is the request with its body from the beginning.
func again(r *http.Request) (*http.Request, error) {
	if r.GetBody == nil {
		return r, nil
	}
	b, err := r.GetBody()
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Body = b
	return r, nil
}

// retryAfter is the pause that an answer asks for: seconds or a date (RFC 9110, 10.2.3).
func retryAfter(resp *http.Response, now time.Time) (time.Duration, bool) {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return 0, false
	}
	h := resp.Header.Get("Retry-After")
	wait := time.Duration(-1)
	if n, err := strconv.Atoi(h); err == nil && n <= int(longestWait/time.Second) {
		wait = time.Duration(n) * time.Second
	} else if at, err := http.ParseTime(h); err == nil {
		wait = max(0, at.Sub(now))
	}
	return wait, wait >= 0 && wait <= longestWait
}
